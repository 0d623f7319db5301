"""Dot-product attention, and the contract that every attention variant keeps.

A variant is a module with three methods. ``forward`` attends from rows to themselves and to a memory and returns what
it would cache of those rows; ``remember`` returns only that; ``step`` attends from one new row a hypothesis.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

Cached = tuple[Tensor, ...]
"""What an attention keeps of the rows it has seen; for the dot product keys and values, [B, H, L, D / H] each."""


class DotProductAttention(nn.Module):
    """Multi-head scaled dot-product attention: softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, memory: Cached | None = None) -> tuple[Tensor, Cached]:
        """Attend from x [B, L, D] to the memory's rows and to x itself.

        The mask is added to the scores: [B or 1, 1, L or 1, M + L] for a memory of M rows. Returns [B, L, D] and the
        keys and values of x alone.
        """
        query, key, value = (self._split(part) for part in self.query_key_value(x).chunk(3, dim=-1))
        keys, values = (key, value) if memory is None else _append(memory, key, value)
        attended = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self.output(self._merge(attended)), (key, value)

    def remember(self, x: Tensor) -> Cached:
        """Keys and values of x [B, L, D], without its queries."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        width = x.shape[-1]
        key, value = functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def step(self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None) -> tuple[Tensor, Cached]:
        """Attend from one new row of each hypothesis to its source and to its own past.

        x is [N, D] with N = B K, the K hypotheses of a source standing together; the memory's tensors are
        [B, H, S, d] and shared by them; the cache's are [N, H, t, d]; the mask is [B, 1, 1, S]. Returns [N, D] and
        the cache with the new row.
        """
        query, key, value = (self._split(part) for part in self.query_key_value(x[:, None]).chunk(3, dim=-1))
        keys, values = (key, value) if cache is None else _append(cache, key, value)
        grouped = self._group(query, memory[0].shape[0])
        on_source = grouped @ memory[0].transpose(2, 3) * query.shape[-1] ** -0.5 + mask
        on_past = query @ keys.transpose(2, 3) * query.shape[-1] ** -0.5
        weights = torch.cat([self._ungroup(on_source), on_past], dim=-1).softmax(dim=-1)
        columns = memory[0].shape[2]
        from_source = self._group(weights[..., :columns], memory[0].shape[0]) @ memory[1]
        attended = self._ungroup(from_source) + weights[..., columns:] @ values
        return self.output(self._merge(attended))[:, 0], (keys, values)

    def _split(self, x: Tensor) -> Tensor:
        """[B, L, D] as [B, H, L, d]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        """[B, H, L, d] as [B, L, D]."""
        return x.transpose(1, 2).flatten(2)

    def _group(self, x: Tensor, sources: int) -> Tensor:
        """[N, H, 1, d] as [B, H, K, d]: the hypotheses of a source become rows of one product."""
        return x.unflatten(0, (sources, -1)).squeeze(3).transpose(1, 2)

    def _ungroup(self, x: Tensor) -> Tensor:
        """[B, H, K, d] as [N, H, 1, d]."""
        return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def _append(cached: Cached, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([cached[0], key], dim=2), torch.cat([cached[1], value], dim=2)
