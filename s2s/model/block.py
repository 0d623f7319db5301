"""One layer of the Transformer: attention and feed-forward, each with its residual and its normalisation."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from s2s.model import attention_variants
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.model.architecture import Architecture
from s2s.model.attention import Cached, Slots
from s2s.model.attention_scores import Sizes
from s2s.model.layers import Dropout, Linear, activations
from s2s.model.ragged_attention import Ragged


class FeedForward(nn.Sequential):
    """Two linear maps with the activation between them, D -> feed_forward -> D."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__(
            Linear(shape.width, shape.feed_forward),
            activations()[shape.activation],
            Linear(shape.feed_forward, shape.width),
        )


class Block(nn.Module):
    """x + f(norm(x)) with pre-normalisation, norm(x + f(x)) with post-normalisation, for both halves.

    Sharding hooks ``forward`` and reads its result, so everything but single steps goes through it, and it returns
    plain tuples of tensors.
    """

    def __init__(self, shape: Architecture, kinds: list[str]) -> None:
        super().__init__()
        self.pre = shape.norm == "pre"
        slots = shape.source_slots + shape.target_slots
        self.attention = attention_variants.build(kinds, Sizes(shape.width, shape.heads, slots, shape.attention_rank))
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.feed_forward = FeedForward(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width, eps=shape.epsilon)
        self.dropout = Dropout(shape.dropout)
        self.policy = CHECKPOINTING["none"]
        self.compiled = False

    def forward(
        self, x: Tensor, mask: Tensor | Ragged | None = None, memory: Cached | None = None, slots: Slots | None = None
    ) -> tuple[Tensor, Cached]:
        """Map rows [B, L, D] to rows [B, L, D], and return also what the attention caches of them.

        Without a mask nobody needs the new rows: the old ones are returned, and only the cached tensors are computed.
        """
        if mask is None:
            return x, self.attention.remember(self._entry(x))
        body = compiled_body() if self.compiled else Block.body
        rows, cached = self.policy.block(body, self, x, mask, memory, slots)
        return rows, cached

    def weights(self, x: Tensor, mask: Tensor, memory: Cached, slots: Slots) -> Tensor:
        """Return the attention's weights [B, H, L, M + L] of rows [B, L, D]."""
        return self.attention.weights(self._entry(x), mask, memory, slots)

    def body(
        self, x: Tensor, mask: Tensor | Ragged, memory: Cached | None, slots: Slots | None
    ) -> tuple[Tensor, Cached]:
        """Return the rows after both halves, and what the attention caches of them."""
        attended, cached = self.attention(self._entry(x), mask, memory, slots)
        return self._leave(x, attended), cached

    def step(
        self, x: Tensor, mask: Tensor, memory: Cached, cache: Cached | None, slot: int = 0
    ) -> tuple[Tensor, Cached]:
        """Map one new row of each hypothesis, [N, D] to [N, D], and return also the grown cache."""
        attended, cache = self.attention.step(self._entry(x), mask, memory, cache, slot)
        return self._leave(x, attended), cache

    def _entry(self, x: Tensor) -> Tensor:
        return self.attention_norm(x) if self.pre else x

    def _leave(self, x: Tensor, attended: Tensor) -> Tensor:
        if self.pre:
            return self.policy.feed_forward(self._feed_pre, x + self.dropout(attended))
        return self.policy.feed_forward(self._feed_post, self.attention_norm(x + self.dropout(attended)))

    def _feed_pre(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def _feed_post(self, x: Tensor) -> Tensor:
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


@lru_cache(maxsize=1)
def compiled_body() -> Callable[..., tuple[Tensor, Cached]]:
    """Return ``Block.body`` compiled once for all blocks and lengths; checkpointing wraps around it."""
    # Donated buffers allow one backward for a forward only, and adversarial methods take gradients before the update's.
    torch._functorch.config.donated_buffer = False
    # Batches differ in length. With fixed shapes the second length would compile everything once more.
    compiled: Callable[..., tuple[Tensor, Cached]] = torch.compile(Block.body, dynamic=True)
    return compiled
