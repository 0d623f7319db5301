# ruff: noqa: ARG001, ARG002, ARG005, C408, E402, I001
"""A fake CUDA for a CPU build of torch: ``import fakecuda`` and "cuda" tensors work, in host memory, by CPU kernels.

What CUDA refuses (operands on two devices, CPU generators, integer products, NCCL on CPU tensors, CUDA behind fork)
is refused with CUDA's words; what would stall a GPU is counted. Numbers are the CPU kernels' own. Build once with
``python building.py``. Environment: FAKE_CUDA_DEVICES (default 1), FAKE_CUDA_CAPABILITY (default 8.0: bf16 in
hardware; 7.5 is a T4) and FAKE_CUDA_MEMORY (bytes, all devices together; more is out of memory).
Processes started with FAKE_CUDA=1 and this folder's ``site`` on PYTHONPATH have it from their start.

Not shown: anything about time; the rounding of a GPU's own kernels; asynchrony and streams; torch.compile.
"""

import ctypes
import importlib.util
import os
import sys
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

from building import library

_found = library()
if not _found.exists():
    raise ImportError(f"the fake CUDA is not built: python {Path(__file__).with_name('building.py')}")
if "torch" in sys.modules:
    raise ImportError("fakecuda must be imported before torch, whose start asks for CUDA once")
_libraries = Path(importlib.util.find_spec("torch").submodule_search_locations[0]) / "lib"
for _name in ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so"):
    ctypes.CDLL(str(_libraries / _name), ctypes.RTLD_GLOBAL)
ctypes.CDLL(str(_found), ctypes.RTLD_GLOBAL)  # its hooks stand in the registry before torch looks there

import torch
import torch._utils
import torch.cuda
import torch.cuda.amp.common
import torch.storage
import torch.distributed as dist

spec = importlib.util.spec_from_file_location("fakecuda_c", _found)
C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(C)
sys.modules["fakecuda_c"] = C


def _index(device=None) -> int:
    if device is None:
        return C.current_device()
    if isinstance(device, int):
        return device if device >= 0 else C.current_device()
    device = torch.device(device)
    return C.current_device() if device.index is None else device.index


class _Stream:
    def __init__(self, device=None, priority=0, **_):
        self.device, self.device_index, self.stream_id, self.device_type = (
            torch.device("cuda", _index(device)),
            _index(device),
            0,
            1,
        )
        self.cuda_stream = 0

    def is_capturing(self):
        return False

    def wait_event(self, event): ...
    def wait_stream(self, stream): ...
    def record_event(self, event=None):
        return event or _Event()

    def query(self):
        return True

    def synchronize(self):
        _note("sync", "stream.synchronize")

    def __enter__(self):
        return self

    def __exit__(self, *_): ...


class _Event:
    def __init__(self, *_, **__):
        import time

        self.time = time.perf_counter()

    def record(self, stream=None):
        import time

        self.time = time.perf_counter()

    def wait(self, stream=None): ...
    def query(self):
        return True

    def synchronize(self):
        _note("sync", "event.synchronize")

    def elapsed_time(self, other):
        return (other.time - self.time) * 1e3


_extra = Counter()
_listener = None


def _note(kind, name):
    _extra[name] += 1
    if _listener:
        _listener(kind, name)


def _warn(kind, name):
    if kind == "sync":
        warnings.warn(f"called a synchronizing CUDA operation ({name})", stacklevel=3)


class _StreamContext:
    def __init__(self, stream): ...
    def __enter__(self): ...
    def __exit__(self, *_): ...


def _install() -> None:
    cuda = torch.cuda
    capability = tuple(int(n) for n in os.environ.get("FAKE_CUDA_CAPABILITY", "8.0").split("."))
    properties = SimpleNamespace(
        name="fake cuda",
        major=capability[0],
        minor=capability[1],
        total_memory=80 * 2**30,
        multi_processor_count=108,
        warp_size=32,
        gcnArchName="",
        is_integrated=False,
        is_multi_gpu_board=False,
        max_threads_per_multi_processor=2048,
        shared_memory_per_block=49152,
        regs_per_multiprocessor=65536,
        L2_cache_size=40 * 2**20,
        uuid="0",
    )

    def is_bf16_supported(including_emulation=True):
        return True if including_emulation else capability[0] >= 8

    def synchronize(device=None):
        _note("sync", "torch.cuda.synchronize")

    def set_sync_debug_mode(mode):
        global _listener
        _listener = None if mode in (0, "default") else _warn
        C.listen(_listener)

    def memory_allocated(device=None):
        return C.numbers()["live"]

    new = dict(
        is_available=lambda: True,
        device_count=C.device_count,
        _lazy_init=lambda: None,
        is_initialized=lambda: True,
        init=lambda: None,
        current_device=C.current_device,
        set_device=lambda d: C.set_device(_index(d)),
        synchronize=synchronize,
        set_sync_debug_mode=set_sync_debug_mode,
        is_bf16_supported=is_bf16_supported,
        get_device_name=lambda device=None: "fake cuda",
        get_device_capability=lambda device=None: capability,
        get_device_properties=lambda device=None: properties,
        memory_allocated=memory_allocated,
        memory_reserved=memory_allocated,
        max_memory_allocated=lambda device=None: C.numbers()["peak"],
        max_memory_reserved=lambda device=None: C.numbers()["peak"],
        reset_peak_memory_stats=lambda device=None: C.reset_peak(),
        reset_max_memory_allocated=lambda device=None: C.reset_peak(),
        mem_get_info=lambda device=None: (80 * 2**30 - C.numbers()["live"], 80 * 2**30),
        empty_cache=lambda: None,
        memory_stats=lambda device=None: {},
        ipc_collect=lambda: None,
        is_current_stream_capturing=lambda: False,
        current_stream=lambda device=None: _Stream(device),
        default_stream=lambda device=None: _Stream(device),
        set_stream=lambda stream: None,
        stream=_StreamContext,
        StreamContext=_StreamContext,
        Stream=_Stream,
        Event=_Event,
        _exchange_device=lambda i: _exchange(i),
        _maybe_exchange_device=lambda i: _exchange(i),
        _is_compiled=lambda: True,
        get_arch_list=lambda: ["sm_80"],
        can_device_access_peer=lambda a, b: True,
        _is_in_bad_fork=lambda: False,
        default_generators=tuple(C.default_generator(i) for i in range(C.device_count())),
        _initialized=True,
    )
    for name, value in new.items():
        setattr(cuda, name, value)
    torch._C._cuda_getDeviceCount = C.device_count
    torch._C._cuda_setDevice = C.set_device
    torch._C._cuda_getDevice = C.current_device
    torch._C._cuda_isInBadFork = lambda: False
    torch._C._cuda_clearCublasWorkspaces = lambda: None
    torch._C._cuda_synchronize = lambda: _note("sync", "torch.cuda.synchronize")
    torch._C._cuda_emptyCache = lambda: None
    torch._C._cuda_getCurrentBlasHandle = lambda: 0
    torch._C._cuda_getCurrentRawStream = lambda device=0: 0
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.backends.cuda.is_built = lambda: True
    torch.version.cuda = "12.8"
    _install_nccl()
    plain = torch._utils._to

    def to(self, device, non_blocking=False):  # this build's UntypedStorage knows no "cuda"
        if torch.device(device).type != "cuda" or self.device.type == "cuda":
            return plain(self, device, non_blocking)
        here = torch.empty(0, dtype=torch.uint8).set_(self)
        return here.to(torch.device(device)).untyped_storage()

    torch._utils._to = torch.storage._to = to
    resize = torch.UntypedStorage.resize_

    def resize_(self, size):
        if self.device.type != "cuda":
            return resize(self, size)
        C.resize_storage(torch.empty(0, dtype=torch.uint8, device=self.device).set_(self), size)
        return self

    torch.UntypedStorage.resize_ = resize_
    clone = torch.UntypedStorage.clone

    def copied(self):  # for deepcopy; this build's UntypedStorage cannot be made on "cuda"
        if self.device.type != "cuda":
            return clone(self)
        return torch.empty(0, dtype=torch.uint8, device=self.device).set_(self).clone().untyped_storage()

    torch.UntypedStorage.clone = copied
    torch.accelerator.current_stream = lambda device=None: _Stream(device)  # the events above are none of torch's
    torch.accelerator.synchronize = synchronize


def _exchange(i: int) -> int:
    before = C.current_device()
    if i >= 0:
        C.set_device(i)
    return before


class _Meta(type):
    def __call__(cls, store, rank, size, options=None):
        from torch._C._distributed_c10d import ProcessGroupGloo

        inner = ProcessGroupGloo(store, rank, size, timeout=getattr(options, "_timeout", timedelta(minutes=10)))
        made = C.fake_nccl(inner)
        return made

    def __instancecheck__(cls, instance):
        try:
            return instance.name() == "nccl"
        except Exception:
            return False


class ProcessGroupNCCL(metaclass=_Meta):
    class Options:
        _timeout = timedelta(minutes=10)
        is_high_priority_stream = False


def _install_nccl() -> None:
    import torch.distributed.distributed_c10d as c10d

    c10d.ProcessGroupNCCL = ProcessGroupNCCL
    dist.ProcessGroupNCCL = ProcessGroupNCCL
    c10d._NCCL_AVAILABLE = True
    c10d.default_pg_nccl_timeout = timedelta(minutes=10)
    c10d._use_torchcomms_enabled = getattr(c10d, "_use_torchcomms_enabled", lambda: False)
    torch.cuda.nccl.version = lambda: (2, 21, 5)


@contextmanager
def counted(stacks: bool = False, depth: int = 12, only: str = "s2s"):
    """Count what would stall a GPU inside; with ``stacks`` also where, as {(kind, operator, place): times}."""
    global _listener
    C.reset()
    _extra.clear()
    found = SimpleNamespace(stalls=Counter(), places=Counter(), numbers={}, seen={})

    def listen(kind, name):
        frames = [f for f in traceback.extract_stack() if only in f.filename and "fakecuda" not in f.filename]
        place = (
            " < ".join(f"{f.filename.rpartition(only + '/')[2]}:{f.lineno}" for f in reversed(frames[-depth:]))
            or "(backward)"
        )
        found.places[kind, name, place] += 1

    if stacks:
        C.listen(listen)
        _listener = listen
    try:
        yield found
    finally:
        C.listen(None)
        _listener = None
        found.stalls = Counter(C.stalls()) + _extra
        found.numbers, found.seen = C.numbers(), C.seen()


_install()
