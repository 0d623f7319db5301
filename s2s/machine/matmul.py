"""The kernel of float32 matrix products: one of the tuned paths of a processor (``s2s.machine.paths``).

On some processors torch's default product leaves half of the machine unused, and torch's switch that allows "bf16" for
float32 products selects oneDNN's float32 kernel, which rounds nothing there. On others the same switch really rounds.
So the switch is kept only after its speed (``s2s.runs.paths``) and its error have been measured.
"""

import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch.nn import functional

from s2s.machine.paths import KERNELS, kernel

COSTLY = 3
"""The ratio of bfloat16's time to float32's from which a warning is logged; with hardware support it is below 1."""


def kernel_on_gpu(tf32: bool) -> tuple[str, str]:
    """Return the kernel of a GPU and a line with the reason; ``tf32`` is a recipe's ``run.tf32``."""
    if tf32:
        return "tf32", "products: float32 ones in TF32 on the GPU (run.tf32)"
    return "ieee", "products: float32 ones in whole float32 on the GPU (run.tf32: false)"


@lru_cache(maxsize=1)
def is_exact() -> bool:
    """Return whether oneDNN's kernel rounds float32 products on this processor as little as torch's own does."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(256, 512, generator=generator), torch.randn(256, 512, generator=generator)
    exact, errors = x.double() @ weight.double().T, {}
    for name in KERNELS:
        with kernel(name):
            errors[name] = float(((x @ weight.T).double() - exact).norm())
    return errors["onednn"] < 2 * errors["default"]


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
