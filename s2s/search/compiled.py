"""Attention over shared columns in C (``attention.c``), compiled at first use where there is a compiler.

torch's attention is made for many queries; with the few of a step it reads memory at a fifth of its speed.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from s2s import compiler
from s2s.compiler import LENGTH, POINTER, Built, spread

LANES = 16
"""The size of a head must be a multiple of it."""
PART = 64
"""How many heads of sources a thread takes at a time, at most: one source's few heads are not worth a second thread."""
FUNCTIONS = {"attend": [POINTER] * 5 + [LENGTH] * 7}


def usable(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether heads of this size can be attended to in C: on the processor, in float32 or from and to bfloat16."""
    plain = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and size % LANES == 0
    return plain and build().library is not None


def attend(projected: Tensor, cache: Tensor, mask: Tensor, used: int) -> Tensor:
    """What new rows see, [sources * rows, H d], once their keys and values are written behind the ``used`` columns.

    projected [sources * rows, 3 H d] are queries, keys and values; cache [sources, H, 2, C, d] is float32 and
    contiguous; where the mask [sources, rows, used + rows] is not 0 a row does not see.
    """
    sources, rows, _ = mask.shape
    _, heads, _, room, size = cache.shape
    given, seen = projected.float().contiguous(), mask.float().contiguous()
    result = torch.empty(len(projected), heads * size)
    parts = [(first, min(first + PART, sources * heads)) for first in range(0, sources * heads, PART)]
    scores = torch.empty(len(parts), rows, used + rows)
    tensors = [each.data_ptr() for each in (given, cache, seen, result)]
    library = build().loaded

    def work(number: int, first: int, last: int) -> None:
        library.attend(*tensors, scores[number].data_ptr(), first, last, rows, heads, size, used, room)

    spread(work, [(number, *part) for number, part in enumerate(parts)])
    return result.to(projected.dtype)


@lru_cache(maxsize=1)
def build() -> Built:
    """The library, compiled at the first call on this machine."""
    return compiler.build(Path(__file__).with_name("attention.c"), FUNCTIONS)
