"""Which kernel computes float32 products on CPU, measured once and saved with the run.

On some processors torch's default matrix product leaves half of the machine unused, and allowing "bf16" for float32
products takes oneDNN's float32 kernel, which rounds nothing there. On others the same switch really rounds. So the
speed and the error are measured before the switch is kept.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, TypeVar

import torch
from torch.nn import functional

Item = TypeVar("Item")

KERNELS = {"default": "none", "onednn": "bf16"}
"""A kernel's name and torch's ``mkldnn.matmul.fp32_precision`` for it."""

GPU_KERNELS = {"tf32": True, "ieee": False}
"""The same for GPUs, and whether TF32 is allowed: float32 products of numbers rounded to 10 bits, much faster."""

WORTH = 1.5
"""How many times faster the other kernel must be: far from noise, so that every start on a machine agrees.

One product in a loop is not a step: where it was 1.1 times as fast, attention's small ones took twice as long. Large
products of linear maps take oneDNN's kernel in any case (``s2s.model.layers``).
"""

COSTLY = 3
"""From how many times float32's time on bfloat16 is told to be slow: processors that have it take less than once."""

ROUNDS = 20
"""How often both are tried, in turn; the best time of each counts."""


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Compute float32 products with the named kernel, of a CPU or a GPU; torch's own settings come back afterwards."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    on_gpu: Any = torch.backends.cuda.matmul
    before, before_on_gpu = matmul.fp32_precision, on_gpu.fp32_precision
    matmul.fp32_precision = KERNELS["default" if name in GPU_KERNELS else name]
    if name in GPU_KERNELS:
        on_gpu.allow_tf32 = GPU_KERNELS[name]
    try:
        yield
    finally:
        matmul.fp32_precision = before
        if name in GPU_KERNELS:
            # torch's older switch must agree with the newer one, or whoever reads it gets an error.
            on_gpu.allow_tf32 = before_on_gpu == "tf32"
            on_gpu.fp32_precision = before_on_gpu


def stepwise(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made with the named kernel; torch's own setting holds while they are used."""
    iterator = iter(items)
    while True:
        with kernel(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def kernel_on(device: torch.device, tf32: bool) -> tuple[str, str]:
    """Return the kernel for a device, and a line that says why; ``tf32`` is a recipe's ``run.tf32``."""
    if device.type == "cpu":
        return _choice(torch.get_num_threads())
    return {
        True: ("tf32", "products: float32 ones in TF32 on the GPU (run.tf32)"),
        False: ("ieee", "products: float32 ones in whole float32 on the GPU (run.tf32: false)"),
    }[tf32]


def is_about_kernels(line: str) -> bool:
    """Return whether a line is one that says why a kernel was chosen."""
    return line.startswith(("products:", "float32 products:"))


def choose() -> tuple[str, str]:
    """The kernel for this machine's processor, and a line that says why."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2048, 512, generator=generator), torch.randn(1024, 512, generator=generator)
    exact = x.double() @ weight.double().T
    errors, times = {}, {name: float("inf") for name in KERNELS}
    for _ in range(ROUNDS):
        for name in KERNELS:
            with kernel(name):
                times[name] = min(times[name], _seconds(lambda: x @ weight.T))
    for name in KERNELS:
        with kernel(name):
            errors[name] = float(((x @ weight.T).double() - exact).norm() / exact.norm())
    faster = times["default"] / times["onednn"]
    chosen = "onednn" if faster > WORTH and errors["onednn"] < 2 * errors["default"] else "default"
    return chosen, (
        f"float32 products: {chosen} kernel (onednn {faster:.2f} times as fast as default, "
        f"relative error {errors['onednn']:.1e} against {errors['default']:.1e})"
    )


@cache
def _choice(threads: int) -> tuple[str, str]:  # noqa: ARG001
    """Return ``choose()``, measured once in a process for each number of threads: it takes a second of the CPU."""
    return choose()


@lru_cache(maxsize=1)
def bfloat16_cost() -> float:
    """Return the time of a product of a few rows in bfloat16 over that in float32 on this processor: 0.7 to 50."""
    x, weight = torch.zeros(8, 256), torch.zeros(1024, 256)
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        given = x.to(kind), weight.to(kind)
        seconds[kind] = min(_seconds(lambda given=given: functional.linear(*given)) for _ in range(5))  # type: ignore[misc]
    return seconds[torch.bfloat16] / seconds[torch.float32]


def bfloat16_warning(key: str) -> list[str]:
    """Return a line for a processor without bfloat16 arithmetic, where the setting ``key`` asks for it."""
    cost = bfloat16_cost()
    if cost < COSTLY:
        return []
    return [f"{key}: this processor has no bfloat16 arithmetic; a product takes {cost:.0f} times as long as in float32"]


def _seconds(work: Callable[[], object]) -> float:
    """The CPU time of the thread: by the clock, others that want the core can make either kernel twice as slow."""
    start = time.thread_time()
    work()
    return time.thread_time() - start
