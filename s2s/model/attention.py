"""Dot-product attention, and the contract that every attention variant keeps.

A variant is a module with three methods. ``forward`` attends from rows to themselves and to a memory and returns what
it would cache of those rows; ``remember`` returns only that; ``step`` attends from one new row a hypothesis. A variant
that tells rows apart by their place is told the slots that they take.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model.layers import Linear, linear
from s2s.model.slots import Slots

Cached = tuple[Tensor, ...]
"""What an attention keeps of the rows it has seen, [B, H, L, D / H] each; for the dot product keys and values."""


class FusedLinear(Linear):
    """Several linear maps of one input in one matrix, [maps * outputs, inputs]."""

    def __init__(self, inputs: int, outputs: int, maps: int) -> None:
        super().__init__(inputs, maps * outputs)
        self.maps = maps


class DotProductAttention(nn.Module):
    """Multi-head scaled dot-product attention: softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = FusedLinear(width, width, maps=3)
        self.output = Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        memory: Cached | None = None,
        slots: Slots | None = None,  # noqa: ARG002 - keys tell the rows apart
    ) -> tuple[Tensor, Cached]:
        """Attend from x [B, L, D] to the memory's rows and to x itself.

        The mask is added to the scores: [B or 1, 1, L or 1, M + L] for a memory of M rows. Its columns of a memory
        are the same for all rows, and its other columns then the same for all examples. Returns [B, L, D] and the keys
        and values of x alone.
        """
        query, key, value = (split(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        keys, values = (key, value) if memory is None else append(memory, (key, value))
        return self.output(merge(softmax_attention(query, keys, values, mask))), (key, value)

    def weights(
        self,
        x: Tensor,
        mask: Tensor,
        memory: Cached | None = None,
        slots: Slots | None = None,  # noqa: ARG002 - keys tell the rows apart
    ) -> Tensor:
        """The weights [B, H, L, M + L] with which ``forward`` sums the values."""
        query, key, _ = (split(part, self.heads) for part in self.query_key_value(x).chunk(3, dim=-1))
        return (dot_products(query, None if memory is None else memory[0], key) + mask).softmax(dim=-1)

    def remember(self, x: Tensor) -> Cached:
        """Keys and values of x [B, L, D], without its queries."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        width = x.shape[-1]
        key, value = linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        return split(key, self.heads), split(value, self.heads)

    def step(
        self,
        x: Tensor,
        mask: Tensor,
        memory: Cached,
        cache: Cached | None,
        slot: int = 0,  # noqa: ARG002 - keys tell the rows apart
    ) -> tuple[Tensor, Cached]:
        """Attend from one new row of each hypothesis to its source and to its own past.

        x is [N, D] with N = B K, the K hypotheses of a source standing together; the memory's tensors are
        [B, H, S, d] and shared by them; the cache's are [N, H, t, d]; the mask is [B, 1, 1, S]; ``slot`` is that of
        the new row. Returns [N, D] and the cache with the new row.
        """
        query, key, value = (split(part, self.heads) for part in self.query_key_value(x[:, None]).chunk(3, dim=-1))
        keys, values = (key, value) if cache is None else append(cache, (key, value))
        rows, columns = len(query) // len(mask), keys.shape[2]
        scores = dot_products(query, memory[0], keys)
        weights = (scores + functional.pad(mask.repeat_interleave(rows, dim=0), (0, columns))).softmax(dim=-1)
        return self.output(merge(weighted(weights, memory[1], values)))[:, 0], (keys, values)


def softmax_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weighted sums softmax(Q K^T / sqrt(d) + mask) V, [B, H, L, d] of queries [B, H, L, d] and C keys and values.

    On a processor bfloat16 is widened first: torch's fused kernel takes its float32 products faster there, and rounds
    less. Units for matrices in bfloat16 (AMX) would turn that around.
    """
    narrow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    if not narrow:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        wide = None if mask is None else mask.float()
        sums = functional.scaled_dot_product_attention(query.float(), keys.float(), values.float(), attn_mask=wide)
    return sums.to(query.dtype)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] as [B, H, L, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """[B, H, L, d] as [B, L, D]."""
    return x.transpose(1, 2).flatten(2)


def append(cached: Cached, new: Cached) -> Cached:
    """What was cached of earlier rows and of new ones, together."""
    return tuple(torch.cat(pair, dim=2) for pair in zip(cached, new, strict=True))


def dot_products(query: Tensor, source: Tensor | None, keys: Tensor) -> Tensor:
    """Scaled scores [N, H, L, S + t] of queries [N, H, L, d]: on shared keys [B, H, S, d] and own ones [N, H, t, d]."""
    query = query * query.shape[-1] ** -0.5
    own = query @ keys.transpose(2, 3)
    return own if source is None else torch.cat([shared_product(query, source.transpose(2, 3)), own], dim=-1)


def weighted(weights: Tensor, source: Tensor | None, values: Tensor) -> Tensor:
    """Weighted sums [N, H, L, d] of shared values [B, H, S, d] and own ones [N, H, t, d]."""
    if source is None:
        return weights @ values
    columns = source.shape[2]
    return shared_product(weights[..., :columns], source) + weights[..., columns:] @ values


def shared_product(rows: Tensor, matrix: Tensor) -> Tensor:
    """[N, H, L, a] times [B, H, a, b]: the rows of the N / B hypotheses of a source enter one product."""
    hypotheses, length = len(rows) // len(matrix), rows.shape[2]
    grouped = rows.unflatten(0, (len(matrix), hypotheses)).transpose(1, 2).flatten(2, 3)
    return (grouped @ matrix).unflatten(2, (hypotheses, length)).transpose(1, 2).flatten(0, 1)
