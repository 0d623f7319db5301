"""Attention with scores of any kind, or with a mixture of several. It caches values, and keys only for dot products."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from s2s.model.attention import Cached, Slots, append, merge_heads, split_heads, weighted
from s2s.model.attention_scores import SCORES, Columns, Sizes
from s2s.model.layers import Linear, product_dtype

FARTHEST = 60.0
"""The greatest difference of a row's scores at which examples share exponentials.

e^-60 is 1e-26, which float32 and bfloat16 represent with full precision.
"""
FARTHEST_HALF = 5.0
"""The same for products in float16, whose least number is e^-16.6: exponentials down to e^-5 keep all their bits."""


class Synthesizer(nn.Module):
    """softmax(B) X W_v with B a row of ``SCORES``, or sum_i a_i B_i with learned weights a_i that add up to 1 a head.

    The weights of a mixture (Tay et al. 2020, section 3.3) are a softmax over one number for each kind and head.
    """

    packable: ClassVar[bool] = False

    def __init__(self, kinds: Sequence[str], sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.value = Linear(sizes.width, sizes.width)
        self.output = Linear(sizes.width, sizes.width)
        self.parts = nn.ModuleDict({kind: SCORES[kind](sizes) for kind in kinds})  # type: ignore[misc]
        # Equal shares at first, as in the released code, whose gate for two kinds starts at sigmoid(0).
        self.mixture = nn.Parameter(torch.zeros(len(kinds), sizes.heads)) if len(kinds) > 1 else None

    def forward(
        self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None
    ) -> tuple[Tensor, Cached]:
        cached = self.remember(x)
        source = None if memory is None else memory[0]
        scores, columns = self._scores(x, memory, cached, slots)
        # Scores without a batch axis are those of all examples; ``visible`` can split just these two forms of a mask.
        if scores.ndim == 3 and (columns.source or mask.shape[2] == 1):
            values = cached[0] if source is None else torch.cat([source, cached[0]], dim=2)
            attended = shared_weighted(scores, *visible(mask, columns.source), values)
        else:
            attended = weighted((scores + mask).softmax(dim=-1), source, cached[0])
        return self.output(merge_heads(attended)), cached

    def weights(self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None) -> Tensor:
        return (self._scores(x, memory, self.remember(x), slots)[0] + mask).softmax(dim=-1)

    def remember(self, x: Tensor) -> Cached:
        """Return values of x [B, L, D], and keys where some scores need them."""
        parts = (tensor for part in self.parts.values() for tensor in part.remember(x))  # type: ignore[operator]
        return split_heads(self.value(x), self.heads), *parts

    def step(
        self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None, slot: int = 0
    ) -> tuple[Tensor, Cached]:
        new = self.remember(x[:, None])
        cached = new if cache is None else append(cache, new)
        tokens = cached[0].shape[2]
        columns = Columns(memory[0].shape[2], Slots(slot - tokens + 1, tokens))
        scores = self.scores(x[:, None], Slots(slot, 1), columns, memory, cached) + mask
        return self.output(merge_heads(weighted(scores.softmax(dim=-1), memory[0], cached[0])))[:, 0], cached

    def scores(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return the mixed scores of rows x: [B, H, L, C], or [H, L, C] where no part depends on the input."""
        memory = memory and memory[1:]  # the values come first
        scores = [part(x, rows, columns, memory, cached[1:]) for part in self.parts.values()]
        if self.mixture is None:
            return scores[0]
        shares = self.mixture.softmax(dim=0)[..., None, None]
        first, *others = [share * part for share, part in zip(shares, scores, strict=True)]
        return sum(others, first)

    def _scores(self, x: Tensor, memory: Cached | None, cached: Cached, slots: Slots | None) -> tuple[Tensor, Columns]:
        """Return the scores of rows x for a memory and for themselves, and the columns that they score."""
        slots = slots or Slots(0, x.shape[1])
        columns = Columns(0 if memory is None else memory[0].shape[2], slots)
        return self.scores(x, slots, columns, memory, cached), columns


def visible(mask: Tensor, source: int) -> tuple[Tensor, Tensor | None]:
    """Return which columns each example has, [B or 1, C], and which of them each row may see, [L, C] or None for all.

    Only the two masks of the prefix LM can be split like this: the source's, and a target's with ``source`` columns of
    memory.
    """
    columns = mask[:, 0, 0] == 0
    if source == 0:
        return columns, None
    # The first row's mask also hides the later target columns; ``pairs`` decides about those, row by row.
    columns[:, source:] = True
    pairs = mask[0, 0] == 0
    # The first example's padding must not hide columns from the others.
    pairs[:, :source] = True
    return columns, pairs


def shared_weighted(scores: Tensor, columns: Tensor, pairs: Tensor | None, values: Tensor) -> Tensor:
    """Return softmax-weighted sums [B, H, L, d] of values [B, H, C, d] under scores [H, L, C] that all examples share.

    Examples differ in the columns [B or 1, C] that they have, so each needs its own normaliser: the sum of the
    exponentials at its columns. The normaliser is one more column of values, and one batched product over heads gives
    the sums of all examples, without weights [B, H, L, C]. Such weights are made only where a row's scores are so far
    apart that the exponentials of an example without the greatest score would vanish.
    """
    held = columns.any(dim=0)  # the greatest score must be that of a column that some example has
    allowed = held.expand(scores.shape[-2:]) if pairs is None else pairs & held
    # A compiled graph cannot branch on numbers; its softmax is one kernel, so it always takes the plain form.
    if len(columns) > 1 and (torch.compiler.is_compiling() or _far_apart(scores.detach(), allowed)):
        seen = columns[:, None, None] if pairs is None else columns[:, None, None] & pairs
        return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ values
    masked = scores.masked_fill(~allowed, -torch.inf)
    # The subtracted score cancels in the quotient, so it may be a constant.
    exponentials = (masked - masked.detach().amax(dim=-1, keepdim=True)).exp()
    table = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1) * columns[:, None, :, None]
    product = exponentials @ table.permute(1, 2, 0, 3).flatten(2)
    sums = product.unflatten(2, (len(values), -1)).permute(2, 0, 1, 3)
    return sums[..., :-1] / sums[..., -1:]


def _far_apart(scores: Tensor, allowed: Tensor) -> bool:
    """Return whether scores [H, L, C] of some row, among the columns [L, C] allowed, differ by more than is safe."""
    greatest = scores.masked_fill(~allowed, -torch.inf).amax(dim=-1)
    least = scores.masked_fill(~allowed, torch.inf).amin(dim=-1)
    return bool((greatest - least > (FARTHEST_HALF if product_dtype(scores) == torch.float16 else FARTHEST)).any())
