"""Memory that is not there: one line on what asked for it and what would need less, in the place of a traceback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from s2s.errors import UserError

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "alloc_failed")
"""What torch on GPUs, on processors and on Windows, numpy, and CUDA's own libraries say."""


def ran_out(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on a GPU or beside it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def enough_memory(place: Callable[[], str], remedy: str) -> Iterator[None]:
    """Raise a UserError with the place and the remedy where what happens inside finds too little memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise UserError(f"{place()}: out of memory ({said(error)}); {remedy}") from error


def said(error: BaseException) -> str:
    """Return the sentence of an exception that says how much was asked for, or its first one."""
    text = " ".join(str(error).split()) or type(error).__name__
    sentences = [part.strip(" .") for part in text.replace("]", "].").split(". ")]
    asked = [part for part in sentences if "allocate" in part.lower()]
    return (asked or sentences)[0][:200]
