"""Attention with scores of any kind, or with a mixture of several; the values alone are always cached."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model.attention import Cached, append, merge, split, weighted
from s2s.model.attention_scores import SCORES, Sizes
from s2s.model.layers import Linear
from s2s.model.slots import Columns, Slots

FARTHEST = 60.0
"""How far apart the scores of a row may lie for examples to share their exponentials: e^-60 is 1e-26, in float32 and
bfloat16 a number like any other."""
FARTHEST_HALF = 5.0
"""The same for products in float16, whose least number is e^-16.6: an example's own exponentials keep ten digits."""


class Synthesizer(nn.Module):
    """softmax(B) X W_v with B a row of ``SCORES``, or sum_i a_i B_i with learned weights a_i that add up to 1 a head.

    The weights of a mixture (Tay et al. 2020, section 3.3) are a softmax over one number a kind of scores and head.
    """

    def __init__(self, kinds: Sequence[str], sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.value = Linear(sizes.width, sizes.width)
        self.output = Linear(sizes.width, sizes.width)
        self.parts = nn.ModuleDict({kind: SCORES[kind](sizes) for kind in kinds})
        self.mixture = nn.Parameter(torch.zeros(len(kinds), sizes.heads)) if len(kinds) > 1 else None

    def forward(
        self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None
    ) -> tuple[Tensor, Cached]:
        """Attend from x [B, L, D] to the memory's rows and to x itself, as ``DotProductAttention`` does.

        Without slots the rows take the first ones.
        """
        slots, own = slots or Slots(0, x.shape[1]), self.remember(x)
        source = None if memory is None else memory[0]
        columns = Columns(0 if source is None else source.shape[2], slots)
        scores = self.scores(x, slots, columns, memory, own)
        if scores.ndim == 3 and (columns.source or mask.shape[2] == 1):
            values = own[0] if source is None else torch.cat([source, own[0]], dim=2)
            attended = shared_weighted(scores, *visible(mask, columns.source), values)
        else:
            attended = weighted((scores + mask).softmax(dim=-1), source, own[0])
        return self.output(merge(attended)), own

    def weights(self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None) -> Tensor:
        """The weights [B, H, L, M + L] with which ``forward`` sums the values."""
        slots = slots or Slots(0, x.shape[1])
        columns = Columns(0 if memory is None else memory[0].shape[2], slots)
        return (self.scores(x, slots, columns, memory, self.remember(x)) + mask).softmax(dim=-1)

    def remember(self, x: Tensor) -> Cached:
        """Values of x [B, L, D], and keys where some scores need them."""
        parts = (tensor for part in self.parts.values() for tensor in part.remember(x))  # type: ignore[operator]
        return split(self.value(x), self.heads), *parts

    def step(
        self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None, slot: int = 0
    ) -> tuple[Tensor, Cached]:
        """Attend from one new row of each hypothesis, as ``DotProductAttention`` does."""
        new = self.remember(x[:, None])
        own = new if cache is None else append(cache, new)
        past = own[0].shape[2]
        columns = Columns(memory[0].shape[2], Slots(slot - past + 1, past))
        scores = self.scores(x[:, None], Slots(slot, 1), columns, memory, own)
        hypotheses = len(x) // len(mask)
        scores = scores + functional.pad(mask.repeat_interleave(hypotheses, dim=0), (0, past))
        return self.output(merge(weighted(scores.softmax(dim=-1), memory[0], own[0])))[:, 0], own

    def scores(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:
        """The mixed scores of rows x [B, L, D]: [B, H, L, C], or [H, L, C] where no part depends on the input."""
        memory = memory and memory[1:]
        found = [part(x, rows, columns, memory, own[1:]) for part in self.parts.values()]
        if self.mixture is None:
            return found[0]
        shares = self.mixture.softmax(dim=0)[..., None, None]
        first, *others = [share * scores for share, scores in zip(shares, found, strict=True)]
        return sum(others, first)


def visible(mask: Tensor, source: int) -> tuple[Tensor, Tensor | None]:
    """Which columns each example has, [B or 1, C], and which of them each row may see, [L, C] or None for all.

    Only masks of the two kinds that the prefix LM has fall apart like this: the source's, and a target's with
    ``source`` columns of memory.
    """
    columns = mask[:, 0, 0] == 0
    if source == 0:
        return columns, None
    columns[:, source:] = True
    pairs = mask[0, 0] == 0
    pairs[:, :source] = True
    return columns, pairs


def shared_weighted(scores: Tensor, columns: Tensor, pairs: Tensor | None, values: Tensor) -> Tensor:
    """Return softmax-weighted sums [B, H, L, d] of values [B, H, C, d] under scores [H, L, C] that all examples share.

    Examples differ in the columns [B or 1, C] that they have, so each has a normaliser of its own: the sum of the
    exponentials at its columns. It is one more column of values, and one batched product over heads gives the sums of
    all examples; no weights [B, H, L, C] are made, unless a row's scores lie so far apart that an example without the
    greatest of them would have none but vanishing exponentials.
    """
    held = columns.any(dim=0)  # what no example has must not be the greatest
    allowed = held.expand(scores.shape[-2:]) if pairs is None else pairs & held
    # A compiled graph cannot look at numbers, and its softmax is one kernel.
    if len(columns) > 1 and (torch.compiler.is_compiling() or _far_apart(scores.detach(), allowed)):
        own = columns[:, None, None] if pairs is None else columns[:, None, None] & pairs
        return scores.masked_fill(~own, -torch.inf).softmax(dim=-1) @ values
    seen = scores.masked_fill(~allowed, -torch.inf)
    exponentials = (seen - seen.detach().amax(dim=-1, keepdim=True)).exp()
    table = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1) * columns[:, None, :, None]
    product = exponentials @ table.permute(1, 2, 0, 3).flatten(2)
    sums = product.unflatten(2, (len(values), -1)).permute(2, 0, 1, 3)
    return sums[..., :-1] / sums[..., -1:]


def _far_apart(scores: Tensor, allowed: Tensor) -> bool:
    """Return whether scores [H, L, C] of one row, among columns [L, C] that count, differ by more than is safe."""
    device = scores.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else scores.dtype
    greatest = scores.masked_fill(~allowed, -torch.inf).amax(dim=-1)
    least = scores.masked_fill(~allowed, torch.inf).amin(dim=-1)
    return bool((greatest - least > (FARTHEST_HALF if dtype == torch.float16 else FARTHEST)).any())
