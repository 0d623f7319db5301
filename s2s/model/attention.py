"""Dot-product attention, and the contract of every attention that a layer may have.

Shapes: B sources, D = H d the width in H heads, L rows that attend, M columns of a memory, S columns of a source,
N = B K hypotheses in decoding, K a source, t tokens of each so far.
"""

# ruff: noqa: ARG002 - each class takes all arguments of the contract, and few need all of them
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.machine.paths import way
from s2s.machine.precision import HALVES
from s2s.model.layers import Linear, linear, product_dtype
from s2s.model.ragged_attention import Ragged, ragged_attention

Cached = tuple[Tensor, ...]
"""Tensors [B, H, L, d] that an attention keeps of rows it has seen; keys and values of the dot product."""


class Slots(NamedTuple):
    """Numbers of rows for attention without keys: ``copies`` times the ``width`` slots from ``first``.

    Source token j has slot j, target token t slot ``source_slots`` + t, in every packed copy of the target. So a target
    row reads the same slots however long its source is, and a step of decoding reads what training read.
    """

    first: int
    width: int
    copies: int = 1

    def of(self, table: Tensor, dimension: int) -> Tensor:
        """Return the table's entries at these slots along one dimension."""
        part = table.narrow(dimension, self.first, self.width)
        return part if self.copies == 1 else torch.cat([part] * self.copies, dim=dimension)


class Attention(Protocol):
    """Attention of a layer: ``DotProductAttention`` or ``Synthesizer``."""

    packable: ClassVar[bool]
    """Whether ``s2s.inference.packed_model`` can compute it: softmax(Q K^T / sqrt(d)) V and nothing else."""

    def __call__(
        self, x: Tensor, mask: Tensor | Ragged, memory: Cached | None = None, slots: Slots | None = None
    ) -> tuple[Tensor, Cached]:
        """Attend from x [B, L, D] to the memory's rows and to x itself.

        Only an attention that is ``packable`` takes ``Ragged`` columns in place of a mask.
        The mask is added to the scores: [B or 1, 1, L or 1, M + L] for a memory of M rows. Its columns of a memory are
        the same for all rows, and its other columns then the same for all examples. ``slots`` number the rows; without
        them they are the first ones. Returns [B, L, D] and what is cached of x alone.
        """

    def weights(self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None) -> Tensor:
        """Return the weights [B, H, L, M + L] with which a call sums the values."""

    def remember(self, x: Tensor) -> Cached:
        """Return only what is cached of x [B, L, D]."""

    def step(
        self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None, slot: int = 0
    ) -> tuple[Tensor, Cached]:
        """Attend from one new row of each hypothesis to its source and to its own past.

        x is [N, D], the K hypotheses of a source next to each other; the memory's tensors are [B, H, S, d] and shared
        by them; the cache's are [N, H, t, d]; the mask is that of ``step_mask``; ``slot`` numbers the new row. Returns
        [N, D] and the cache with the new row.
        """


class FusedLinear(Linear):
    """Several linear maps of one input in one matrix, [maps * outputs, inputs]."""

    def __init__(self, inputs: int, outputs: int, maps: int) -> None:
        super().__init__(inputs, maps * outputs)
        self.maps = maps


class DotProductAttention(nn.Module):
    """Multi-head scaled dot-product attention: softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, section 3.2).

    It has no use for slots: keys tell the rows apart.
    """

    packable: ClassVar[bool] = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = FusedLinear(width, width, maps=3)
        self.output = Linear(width, width)

    def forward(
        self, x: Tensor, mask: Tensor | Ragged, memory: Cached | None = None, slots: Slots | None = None
    ) -> tuple[Tensor, Cached]:
        query, key, value = self._parts(x)
        if isinstance(mask, Ragged):
            return self.output(merge_heads(ragged_attention(query, memory, (key, value), mask))), (key, value)
        # The fused kernel takes one tensor of keys. ``step`` does without the copy, which each hypothesis would need
        # there.
        keys, values = (key, value) if memory is None else append(memory, (key, value))
        return self.output(merge_heads(softmax_attention(query, keys, values, mask))), (key, value)

    def weights(self, x: Tensor, mask: Tensor, memory: Cached | None = None, slots: Slots | None = None) -> Tensor:
        query, key, _ = self._parts(x)
        return (dot_products(query, None if memory is None else memory[0], key) + mask).softmax(dim=-1)

    def remember(self, x: Tensor) -> Cached:
        """Return keys and values of x [B, L, D], without computing its queries."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        width = x.shape[-1]
        key, value = linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def step(
        self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None, slot: int = 0
    ) -> tuple[Tensor, Cached]:
        query, key, value = self._parts(x[:, None])
        keys, values = (key, value) if cache is None else append(cache, (key, value))
        scores = dot_products(query, memory[0], keys) + mask
        return self.output(merge_heads(weighted(scores.softmax(dim=-1), memory[1], values)))[:, 0], (keys, values)

    def _parts(self, x: Tensor) -> list[Tensor]:
        """Return queries, keys and values of x [B, L, D], [B, H, L, d] each."""
        return [split_heads(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1)]


def step_mask(mask: Tensor, hypotheses: int, tokens: int) -> Tensor:
    """Return the mask [N, 1, 1, S + t] of a step from the sources' [B, 1, 1, S].

    A hypothesis sees its source and the ``tokens`` of its own, the new one included.
    """
    return functional.pad(mask.repeat_interleave(hypotheses // len(mask), dim=0), (0, tokens))


def kernel_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the mask [B, 1, L, C] in the form in which a GPU's kernels add it to the scores of rows x.

    Its type is that of their attention, and its rows begin at multiples of 8 elements: any other mask would be cast,
    and copied by torch's memory-efficient attention, in every layer. On a processor it is the given one.
    """
    if not mask.is_cuda:
        return mask
    # Autocast leaves double precision as it is.
    mask = mask.to(x.dtype if x.dtype == torch.float64 else product_dtype(x))
    columns = mask.shape[-1]
    return functional.pad(mask, (0, -columns % 8))[..., :columns] if columns % 8 else mask


def takes_ragged(x: Tensor) -> bool:
    """Return whether passes of rows x read ``Ragged`` columns in place of masks, if their attention can."""
    half = x.is_cuda and product_dtype(x) in HALVES.values()
    # That kernel has no second derivative; a method that needs one forbids all kernels of its kind.
    return half and way("gpu_attention") == "varlen" and torch.backends.cuda.flash_sdp_enabled()


def softmax_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(Q K^T / sqrt(d) + mask) V, [B, H, L, d], of queries [B, H, L, d] and C keys and values."""
    # On a processor torch's fused kernel is faster with bfloat16 widened to float32, and rounds less; units for
    # matrices in bfloat16 (AMX) would turn that around.
    narrow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    if not narrow:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    # Under autocast the attention would convert the widened operands back.
    with torch.autocast("cpu", enabled=False):
        wide = None if mask is None else mask.float()
        sums = functional.scaled_dot_product_attention(query.float(), keys.float(), values.float(), attn_mask=wide)
    return sums.to(query.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return [B, L, D] as [B, H, L, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Return [B, H, L, d] as [B, L, D]."""
    return x.transpose(1, 2).flatten(2)


def append(cached: Cached, new: Cached) -> Cached:
    """Return what is cached of earlier rows and of new ones together."""
    return tuple(torch.cat(pair, dim=2) for pair in zip(cached, new, strict=True))


def dot_products(query: Tensor, source: Tensor | None, keys: Tensor) -> Tensor:
    """Return scaled scores [N, H, L, S + t] of queries [N, H, L, d] for keys [B, H, S, d] of sources, if any, and for
    each hypothesis' keys [N, H, t, d].
    """
    query = query * query.shape[-1] ** -0.5
    scores = query @ keys.transpose(2, 3)
    return scores if source is None else torch.cat([shared_product(query, source.transpose(2, 3)), scores], dim=-1)


def weighted(weights: Tensor, source: Tensor | None, values: Tensor) -> Tensor:
    """Return sums [N, H, L, d], by weights [N, H, L, S + t], of values [B, H, S, d] and [N, H, t, d]."""
    if source is None:
        return weights @ values
    columns = source.shape[2]
    return shared_product(weights[..., :columns], source) + weights[..., columns:] @ values


def shared_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply [N, H, L, a] by [B, H, a, b]: the rows of a source's N / B hypotheses enter one product."""
    hypotheses, length = len(rows) // len(matrix), rows.shape[2]
    grouped = rows.unflatten(0, (len(matrix), hypotheses)).transpose(1, 2).flatten(2, 3)
    return (grouped @ matrix).unflatten(2, (hypotheses, length)).transpose(1, 2).flatten(0, 1)
