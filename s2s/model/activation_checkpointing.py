"""Activation checkpointing: a block keeps everything of its forward for the backward, a part, or only its inputs.

The backward computes the rest again, with the same dropout (Chen et al. 2016, "Training deep nets with sublinear memory
cost"), except a last product whose result nobody needs. On CPU every policy gives the same losses and gradients to the
bit. Where no gradients are wanted, as in decoding, nothing is kept anyway.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import save_on_cpu
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

Call = Callable[..., Any]
"""A function that calls another one with arguments and returns its result."""
BACKENDS = {
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
}
"""Attention kernels, and functions that return whether torch may use them now (on CPU too, despite the module)."""


class CheckpointPolicy(NamedTuple):
    """The functions through which a block calls its whole body, and within it its feed-forward half."""

    block: Call
    feed_forward: Call


def everything(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep everything that the backward needs."""
    return function(*arguments)


def inputs(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep only the arguments."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    # The reentrant form fails under ``torch.autograd.grad`` and cannot be differentiated twice; adversarial methods and
    # the gradient penalty need both.
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=_same_attention)


def inputs_of_block(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep only the arguments of a function that returns rows and what is cached of them."""
    rows, cached = inputs(function, *arguments)
    # Cached keys and values are views of one matrix with the queries, which would stay in memory with them.
    return rows, tuple(part.clone() for part in cached) if torch.is_grad_enabled() else cached


def _same_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward and of its repetition: the second allows the kernels that the first had."""
    # The gradient penalty restricts kernels for its forward; the backward that repeats the forward comes later.
    return nullcontext(), _Attention([backend for backend, enabled in BACKENDS.items() if enabled()])


class _Attention(AbstractContextManager[None]):
    """A context that allows some attention kernels; unlike torch's own, a second backward can enter it again."""

    def __init__(self, allowed: list[SDPBackend]) -> None:
        self.allowed = allowed

    def __enter__(self) -> None:
        self.now = sdpa_kernel(self.allowed)
        self.now.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.now.__exit__(*raised)


def in_main_memory(function: Callable[..., Any], *arguments: Any) -> Any:
    """Keep everything, but in main memory until the backward; this saves memory on GPUs only."""
    # Copies to and from pinned memory are faster, and only a GPU's driver can pin it.
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return function(*arguments)


CHECKPOINTING = {
    "none": CheckpointPolicy(everything, everything),
    "selective": CheckpointPolicy(everything, inputs),
    "block": CheckpointPolicy(inputs_of_block, everything),
    "offload": CheckpointPolicy(in_main_memory, everything),
}
"""``selective`` computes the feed-forward half again, whose wide rows are most of what a block keeps; ``block`` both
halves."""
