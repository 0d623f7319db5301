"""What a block keeps of its forward for its backward: everything, a part, or its inputs alone.

What is not kept is computed again when gradients need it (Chen et al. 2016, "Training deep nets with sublinear memory
cost"), with the same dropout; a last product whose result nobody needs is not. Every row gives the same losses and
gradients to the bit on CPU. Where no gradients are wanted, as in decoding, nothing is kept anyway.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import save_on_cpu
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Call = Callable[..., Any]
"""Calls a function with arguments and returns what it returns."""
BACKENDS = {
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
}
"""Kernels of attention and whether they may be used now; on CPU too, in spite of the module's name."""


class CheckpointPolicy(NamedTuple):
    """How a block calls its whole body, and within that its feed-forward half."""

    block: Call
    feed_forward: Call


def everything(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep all that the backward needs."""
    return function(*arguments)


def inputs(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep the arguments alone."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=_same_attention)


def inputs_of_block(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep the arguments alone of what gives rows and what is cached of them.

    What is cached stands in one matrix with the queries, which would be kept along with it.
    """
    rows, cached = inputs(function, *arguments)
    return rows, tuple(part.clone() for part in cached) if torch.is_grad_enabled() else cached


def _same_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward and of what is computed again, which may use the same kernels of attention."""
    return nullcontext(), _Attention([backend for backend, enabled in BACKENDS.items() if enabled()])


class _Attention(AbstractContextManager[None]):
    """Allows some kernels of attention; unlike torch's own context it can be entered again, by a second backward."""

    def __init__(self, allowed: list[SDPBackend]) -> None:
        self.allowed = allowed

    def __enter__(self) -> None:
        self.now = sdpa_kernel(self.allowed)
        self.now.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.now.__exit__(*raised)


def in_main_memory(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep all, but in the processor's memory until the backward; it helps a GPU only."""
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return function(*arguments)


CHECKPOINTING = {
    "none": CheckpointPolicy(everything, everything),
    "selective": CheckpointPolicy(everything, inputs),
    "block": CheckpointPolicy(inputs_of_block, everything),
    "offload": CheckpointPolicy(in_main_memory, everything),
}
"""``selective`` recomputes the feed-forward half, whose wide rows are most of what a block keeps, ``block`` both."""
