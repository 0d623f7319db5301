"""Which kernel computes float32 products on CPU, measured once and saved with the run.

On some processors torch's default matrix product leaves half of the machine unused, and allowing "bf16" for float32
products takes oneDNN's float32 kernel, which rounds nothing there. On others the same switch really rounds. So the
speed and the error are measured before the switch is kept.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")

KERNELS = {"default": "none", "onednn": "bf16"}
"""A kernel's name and torch's ``mkldnn.matmul.fp32_precision`` for it."""

WORTH = 1.5
"""How many times faster the other kernel must be: far from noise, so that every start on a machine agrees.

One product in a loop is not a step: where it was 1.1 times as fast, attention's small ones took twice as long. Large
products of linear maps take oneDNN's kernel in any case (``s2s.model.linear``).
"""

ROUNDS = 20
"""How often both are tried, in turn; the best time of each counts."""


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Compute float32 products on CPU with the named kernel; torch's own setting comes back afterwards."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = KERNELS[name]
    try:
        yield
    finally:
        matmul.fp32_precision = before


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


def choose() -> tuple[str, str]:
    """The kernel for this machine, and a line that says why."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2048, 512, generator=generator), torch.randn(1024, 512, generator=generator)
    exact = x.double() @ weight.double().T
    errors, times = {}, {name: float("inf") for name in KERNELS}
    for _ in range(ROUNDS):
        for name in KERNELS:
            with kernel(name):
                times[name] = min(times[name], _seconds(lambda: x @ weight.T))
                errors[name] = float(((x @ weight.T).double() - exact).norm() / exact.norm())
    faster = times["default"] / times["onednn"]
    chosen = "onednn" if faster > WORTH and errors["onednn"] < 2 * errors["default"] else "default"
    return chosen, (
        f"float32 products: {chosen} kernel (onednn {faster:.2f} times as fast as default, "
        f"relative error {errors['onednn']:.1e} against {errors['default']:.1e})"
    )


def _seconds(work: Callable[[], object]) -> float:
    """The CPU time of the thread: by the clock, others that want the core can make either kernel twice as slow."""
    start = time.thread_time()
    work()
    return time.thread_time() - start
