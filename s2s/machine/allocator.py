"""Memory that is freed and taken again at every step, kept by the process instead of faulted in anew each time."""

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

OPTIONS = {
    "MALLOC_MMAP_MAX_": (-4, 0),  # large blocks come from the heap as well
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # which never shrinks
    "MALLOC_TOP_PAD_": (-2, 1 << 28),  # and grows by a quarter of a gigabyte at a time
}
"""The environment variable of an option of glibc's allocator, its number in ``malloc.h``, and our value."""


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, from now on; what the environment sets stays as it is set."""
    set_option = glibc_option()
    for name, option in OPTIONS.items():
        if set_option is not None and name not in os.environ:
            set_option(*option)


@lru_cache(maxsize=1)
def glibc_option() -> Any:
    """The function ``mallopt`` of glibc, or None where there is another library."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
