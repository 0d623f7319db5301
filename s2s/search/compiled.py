"""Attention over shared columns in C (``attention.c``), compiled at first use where there is a compiler.

torch's attention is made for many queries; with the few of a step it reads memory at a fifth of its speed.
"""

from collections.abc import Callable
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


def attention(cache: Tensor, mask: Tensor, used: int) -> Callable[[int, Tensor], Tensor]:
    """What new rows of a layer see, [sources * rows, H d], once their keys and values lie behind the ``used`` columns.

    The function takes the layer and queries, keys and values [sources * rows, 3 H d]. The cache
    [layers, sources, H, 2, C, d] is float32, each layer contiguous; where the mask [sources, rows, used + rows] is not
    0 a row does not see.
    """
    sources, rows, columns = mask.shape
    _, _, heads, _, room, size = cache.shape
    seen, step = mask.float().contiguous(), cache.stride(0) * cache.element_size()
    starts = enumerate(range(0, sources * heads, PART))
    parts = [(number, at, min(at + PART, sources * heads)) for number, at in starts]
    scores = torch.empty(len(parts), rows, columns)
    library = build().loaded

    def attend(layer: int, projected: Tensor) -> Tensor:
        given, result = projected.float().contiguous(), torch.empty(len(projected), heads * size)
        tensors = given.data_ptr(), cache.data_ptr() + layer * step, seen.data_ptr(), result.data_ptr()

        def work(number: int, first: int, last: int) -> None:
            library.attend(*tensors, scores[number].data_ptr(), first, last, rows, heads, size, used, room)

        spread(work, parts)
        return result.to(projected.dtype)

    return attend


@lru_cache(maxsize=1)
def build() -> Built:
    """The library, compiled at the first call on this machine."""
    return compiler.build(Path(__file__).with_name("attention.c"), FUNCTIONS)
