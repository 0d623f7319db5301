"""C files of this project, compiled at first use where there is a compiler.

A library is cached in ``$S2S_CACHE``, else ``~/.cache/s2s``, under a digest of its source, compiler, flags and
processor. It is built for this processor, or for the one that ``$S2S_CPU_TARGET`` names as compilers do (``haswell``,
``x86-64-v3``), so that code for older processors can be tested here.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from s2s.files.paths import cache_folder

# Nobody reads errno or the processor's exceptions. With them, and without AVX-512's masks, loops that choose one of two
# numbers are not vectorised: GELU takes eight times as long on AVX2.
QUIET = ("-fno-math-errno", "-fno-trapping-math")
FLAGS = ("-O3", "-funroll-loops", "-fopenmp-simd", *QUIET, "-shared", "-fPIC")
LINKED = ("-lm",)
TARGET = "S2S_CPU_TARGET"
"""The environment variable that names the processor to build for."""
POINTER, LENGTH, NUMBER = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float


class Built(NamedTuple):
    """A compiled library, or None, with the reason."""

    functions: ctypes.CDLL | None
    reason: str

    @property
    def loaded(self) -> ctypes.CDLL:
        """The library; only for callers that know that there is one."""
        assert self.functions is not None, self.reason
        return self.functions


def build(sources: Sequence[Path], functions: dict[str, list[Any]]) -> Built:
    """Return the library of C files, which are compiled at the first call on this machine, within seconds.

    ``functions`` has the names of its functions and the types of their arguments; they return nothing.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        return Built(None, "no C compiler was found")
    try:
        library = ctypes.CDLL(str(_compiled(sources, compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        lines = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
        return Built(None, f"{compiler} failed: {lines[0] if lines else error}")
    for name, types in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return Built(library, f"compiled by {compiler}")


def shares(items: int, most: int) -> list[tuple[int, int]]:
    """Return the first and last items, exclusive, of each thread's share, of at most ``most`` threads."""
    threads = max(1, min(torch.get_num_threads(), items, most))
    return [(part * items // threads, (part + 1) * items // threads) for part in range(threads)]


def spread(work: Callable[..., object], parts: Sequence[tuple[int, ...]]) -> None:
    """Call ``work(*part)`` for each part, on torch's number of threads; ctypes releases Python's lock around C."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(*part)
    else:
        for _ in _pool(threads).map(lambda part: work(*part), parts):
            pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _compiled(sources: Sequence[Path], compiler: str) -> Path:
    """Return the library's file, compiled if the cache has none."""
    flags = (*FLAGS, _target())
    texts = [source.read_bytes() for source in sources]
    fingerprint_inputs = (texts, compiler, flags, LINKED, platform.machine(), _abilities())
    file = cache_folder() / f"{sources[0].stem}-{sha256(repr(fingerprint_inputs).encode()).hexdigest()[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once: each writes to a folder of its own, and the file appears whole.
        with TemporaryDirectory(dir=file.parent) as folder:
            compiled = Path(folder) / file.name
            command = [compiler, *flags, *map(str, sources), "-o", str(compiled), *LINKED]
            subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
            compiled.replace(file)
    return file


def _abilities() -> list[str]:
    """Return texts that differ between processors which share a cache folder; Linux lists the features of each."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return [platform.platform(), platform.processor()]
    return [line for line in lines if line.startswith(("flags", "Features"))][:1]


def _target() -> str:
    """Return the compiler's flag for the target processor, which is spelt differently for Arm."""
    flag = "-march" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu"
    return f"{flag}={os.environ.get(TARGET) or 'native'}"
