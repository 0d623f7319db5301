"""The kernel of float32 matrix products, on a CPU measured once and saved with the run.

On some processors torch's default product leaves half of the machine unused, and torch's switch that allows "bf16" for
float32 products selects oneDNN's float32 kernel, which rounds nothing there. On others the same switch really rounds.
So the switch is kept only after its speed and its error have been measured.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import Any, TypeVar

import torch
from torch.nn import functional

Item = TypeVar("Item")

KERNELS = {"default": "none", "onednn": "bf16"}
"""The kernels of CPUs, with the value of torch's ``mkldnn.matmul.fp32_precision`` that selects each."""

GPU_KERNELS = {"tf32": True, "ieee": False}
"""The kernels of GPUs, and whether TF32 is allowed: float32 products of numbers rounded to 10 bits, much faster."""

WORTH = 1.5
"""How many times as fast oneDNN must be to be chosen: far from noise, so that every start on a machine agrees.

A product in a loop is not a training step: where it was 1.1 times as fast, attention's small products took twice as
long. Large products of linear maps use oneDNN's kernel in any case (``s2s.model.layers``).
"""

COSTLY = 3
"""The ratio of bfloat16's time to float32's from which a warning is logged; with hardware support it is below 1."""

ROUNDS = 20
"""Number of timings of each kernel, in turn; the best one counts."""


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Compute float32 products with the named kernel, of a CPU or a GPU, and restore torch's settings at the end."""
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
            # torch's older switch must agree with the newer one, or reading it raises an error.
            on_gpu.allow_tf32 = before_on_gpu == "tf32"
            on_gpu.fp32_precision = before_on_gpu


def stepwise(name: str, items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, each computed with the named kernel; while the caller uses one, torch's settings are its own."""
    iterator = iter(items)
    while True:
        with kernel(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def kernel_on(device: torch.device, tf32: bool) -> tuple[str, str]:
    """Return the kernel for a device and a line with the reason; ``tf32`` is a recipe's ``run.tf32``."""
    if device.type == "cpu":
        return _choice(torch.get_num_threads())
    if tf32:
        return "tf32", "products: float32 ones in TF32 on the GPU (run.tf32)"
    return "ieee", "products: float32 ones in whole float32 on the GPU (run.tf32: false)"


def is_about_kernels(line: str) -> bool:
    """Return whether a line of the log is the reason for a kernel."""
    return line.startswith(("products:", "float32 products:"))


def choose() -> tuple[str, str]:
    """Measure the kernels on this processor; return the one to use and a line with the reason."""
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
        work = partial(functional.linear, x.to(kind), weight.to(kind))
        seconds[kind] = min(_seconds(work) for _ in range(5))
    return seconds[torch.bfloat16] / seconds[torch.float32]


def bfloat16_warning(key: str) -> list[str]:
    """Return a line if this processor has no bfloat16 arithmetic, which the setting ``key`` asks for; else none."""
    cost = bfloat16_cost()
    if cost < COSTLY:
        return []
    return [f"{key}: this processor has no bfloat16 arithmetic; a product takes {cost:.0f} times as long as in float32"]


def _seconds(work: Callable[[], object]) -> float:
    # The thread's CPU time: by the clock, another process on this core could make either kernel look twice as slow.
    start = time.thread_time()
    work()
    return time.thread_time() - start
