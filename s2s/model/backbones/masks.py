"""Masks of ``transformers`` that are made without a look at their padding, where a look would wait for a GPU.

The library leaves a mask out where a batch has no padding, and asks the tensor whether it has any: at every pass, for
each kind of mask. Batches almost always have padding, so that the answer is rarely worth the wait. Its functions that
make masks have arguments against it, but no model passes them on. So these functions are replaced by ones that read
from a context variable whether a backbone on a GPU is running, and that do for everyone else what they did before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch

NEVER = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
"""Arguments of a function that makes masks, with which it makes one in any case."""
UNREAD: ContextVar[bool] = ContextVar("unread", default=False)
"""Whether the passes that run are those of a backbone on a GPU; threads have a value each."""
KINDS = ("sdpa", "eager")
"""The implementations of attention that a backbone may have, by the library's names."""


@contextmanager
def unread(device: torch.device) -> Iterator[None]:
    """Make all masks inside the context without a look at their padding, if this is a GPU."""
    if device.type != "cuda":
        yield
        return
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS  # slow, and only of use on a GPU

    for kind in KINDS:
        make = ALL_MASK_ATTENTION_FUNCTIONS[kind]
        if not hasattr(make, "__wrapped__"):
            ALL_MASK_ATTENTION_FUNCTIONS[kind] = _asking(make)
    token = UNREAD.set(True)
    try:
        yield
    finally:
        UNREAD.reset(token)


def _asking(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a mask as ``make`` does, but in any case where a backbone on a GPU asks."""

    @wraps(make)
    def mask(*args: Any, **settings: Any) -> Any:
        return make(*args, **(settings | NEVER if UNREAD.get() else settings))

    return mask
