"""The process's memory: freed memory that it keeps, and one line where there is too little, instead of a traceback."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from s2s.errors import UserError

OPTIONS = {
    "MALLOC_MMAP_MAX_": (-4, 0),  # large blocks come from the heap as well
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # which never shrinks
    "MALLOC_TOP_PAD_": (-2, 1 << 28),  # and grows by a quarter of a gigabyte at a time
}
"""The environment variable of an option of glibc's allocator, its number in ``malloc.h``, and the value for training.

By default glibc returns large freed blocks to the system, and every step faults the same pages in again.
"""


def keep_freed_memory() -> None:
    """Make glibc keep the memory that this process frees; an option that the environment sets stays as it is."""
    set_option = glibc_option()
    for name, option in OPTIONS.items():
        if set_option is not None and name not in os.environ:
            set_option(*option)


@lru_cache(maxsize=1)
def glibc_option() -> Any:
    """Return glibc's function ``mallopt``, or None for another C library."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None


def peak_memory() -> int:
    """Return the most bytes that this process has held at once: on its GPU if it used one, otherwise resident ones."""
    if torch.cuda.is_available() and (peak := torch.cuda.max_memory_allocated()):
        return int(peak)
    if sys.platform == "linux":
        # Not getrusage: its maximum includes that of the process which started this one.
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0  # Python cannot ask there
    import resource  # which Windows does not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main_memory() -> int | None:
    """Return the bytes of the machine's main memory; None on Windows, where Python cannot ask."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "alloc_failed")
"""Parts of the messages of torch on GPUs, on processors and on Windows, of numpy, and of CUDA's libraries."""


def ran_out(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on a GPU or on the processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in MESSAGES)


def shortage(error: BaseException) -> str:
    """Return the sentence of an exception with the amount of memory that was requested, or its first sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    sentences = [part.strip(" .") for part in text.replace("]", "].").split(". ")]
    requests = [sentence for sentence in sentences if "allocate" in sentence.lower()]
    return (requests or sentences)[0][:200]


@contextmanager
def enough_memory(subject: Callable[[], str], remedy: str) -> Iterator[None]:
    """Raise a UserError with ``subject()`` and the remedy where the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise UserError(f"{subject()}: out of memory ({shortage(error)}); {remedy}") from error
