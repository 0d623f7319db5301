"""The C code of decoding: one library of three files, compiled at first use where there is a compiler.

``c_attention``, ``c_products`` and ``c_step`` call it. It is one library because a whole step (``step.c``) is made of
the parts of the other two files.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from s2s.machine import c_library
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, Built

SOURCES = [Path(__file__).with_name(name) for name in ("attention.c", "products.c", "step.c")]
FUNCTIONS: dict[str, list[Any]] = {
    "attend": [POINTER] * 5 + [LENGTH] * 8,
    "multiply": [POINTER] * 4 + [LENGTH] * 6,
    "multiply_integers": [POINTER] * 7 + [NUMBER] + [LENGTH] * 5,
    "gelu": [POINTER, LENGTH],
    "together": [POINTER],
    "normalise": [POINTER] * 4 + [NUMBER] + [LENGTH] * 2,
    "step": [POINTER] + [LENGTH] * 2 + [POINTER] * 5 + [LENGTH] + [POINTER] * 2 + [LENGTH] * 7,
}


@lru_cache(maxsize=1)
def build() -> Built:
    """Return the library, compiled at the first call on this machine."""
    return c_library.build(SOURCES, FUNCTIONS)
