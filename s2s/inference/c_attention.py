"""Attention of a step's new rows over shared columns: in C (``attention.c``), or by torch.

torch's attention is made for many queries; with the few of a step it takes twice as long as the C code. The C file is
compiled at first use where there is a compiler. Which of both is taken is the path ``attention`` of
``s2s.machine.paths``: code that is tuned on one processor can be slow on another.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from s2s.inference.c_code import build
from s2s.machine.c_library import spread
from s2s.machine.paths import way
from s2s.model.attention import kernel_mask, merge_heads, split_heads

LANES = 16
"""Heads whose size is a multiple of this are computed in C: the most floats that a register of any processor holds."""
PART = 64
"""The most heads of sources that a thread takes at a time: one source's few heads are not worth a second thread."""


def usable(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Return whether the C code takes heads of this size: on the processor, in float32 or from and to bfloat16."""
    suited = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and size % LANES == 0
    return suited and way("attention") == "c" and build().functions is not None


class StepAttention:
    """The attention in C of a step's new rows, whose keys and values it writes after the ``used`` columns.

    A call maps a layer's number and queries, keys and values [sources * rows, 3 H d] to [sources * rows, H d]. The
    cache [layers, sources, H, 2, C, d] is float32 or bfloat16, each layer contiguous. A row sees the columns at which
    its mask [sources, rows, used + rows] is 0.
    """

    def __init__(self, cache: Tensor, mask: Tensor, used: int) -> None:
        self.sources, self.rows, columns = mask.shape
        _, _, self.heads, _, self.room, self.size = cache.shape
        self.cache, self.stride, self.used = cache, cache.stride(0) * cache.element_size(), used
        self.seen, self.half = mask.float().contiguous(), cache.dtype == torch.bfloat16
        heads = self.sources * self.heads
        self.parts = [(number, at, min(at + PART, heads)) for number, at in enumerate(range(0, heads, PART))]
        # Parts run in several threads, so each has its own room for scores.
        self.scores = self.seen.new_empty(len(self.parts), self.rows, columns)

    def __call__(self, layer: int, projected: Tensor) -> Tensor:
        """Attend in one layer."""
        given = projected.float().contiguous()
        result = given.new_empty(len(projected), self.heads * self.size)
        # Addresses keep nothing alive: these tensors must have names here until ``spread`` returns.
        cache = self.cache.data_ptr() + layer * self.stride
        tensors, attend = (given.data_ptr(), cache, self.seen.data_ptr(), result.data_ptr()), build().loaded.attend
        sizes = self.rows, self.heads, self.size, self.used, self.room, self.half

        def work(number: int, first: int, last: int) -> None:
            attend(*tensors, self.scores[number].data_ptr(), first, last, *sizes)

        spread(work, self.parts)
        return result.to(projected.dtype)


def attention_by_torch(cache: Tensor, mask: Tensor, used: int) -> Callable[[int, Tensor], Tensor]:
    """Return the same function of torch alone, on any device; a cache of another type than the rows is converted."""
    rows, hypotheses, columns = mask.shape
    visible = kernel_mask(mask[:, None], cache)

    def attend(layer: int, projected: Tensor) -> Tensor:
        new = projected.unflatten(0, (rows, hypotheses)).chunk(3, dim=-1)
        keys, values = cache[layer][..., :columns, :].unbind(2)
        query, keys[..., used:, :], values[..., used:, :] = (split_heads(part, cache.shape[2]) for part in new)
        keys, values = keys.to(query.dtype), values.to(query.dtype)
        return merge_heads(scaled_dot_product_attention(query, keys, values, attn_mask=visible)).flatten(0, 1)

    return attend
