"""The prefix LM: one Transformer whose source rows see the source and whose target rows see the source and their past.

Source rows never attend to target rows (UniLM's sequence-to-sequence mask, Dong et al. 2019), so ``encode`` computes
the source once and ``decode`` runs any number of targets against it; both together are exactly the one masked forward.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from s2s.model import attention_variants
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.model.architecture import Architecture
from s2s.model.attention import Cached
from s2s.model.block import Block
from s2s.model.layers import Dropout, Linear
from s2s.model.slots import Slots

Stack = tuple[Cached, ...]
"""What the attention of each layer caches."""


class Memory(NamedTuple):
    """The encoded source: what each layer's attention caches of it, its lengths [B] and its mask [B, 1, 1, S]."""

    layers: Stack
    lengths: Tensor
    mask: Tensor


class Embedding(nn.Module):
    """Token, position and segment embeddings, summed; normalised as in BERT where the blocks are post-norm."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.offset = shape.position_offset
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.position_offset + shape.positions, shape.width)
        self.segments = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.epsilon) if shape.norm == "post" else nn.Identity()
        self.dropout = Dropout(shape.dropout)

    def forward(self, words: Tensor, positions: Tensor, segment: int) -> Tensor:
        """Token embeddings [B, L, D] and positions [B or 1, L] to [B, L, D]."""
        placed = self.positions(positions + self.offset) + self.segments.weight[segment]
        return self.dropout(self.norm(words + placed))


class Transform(nn.Sequential):
    """BERT's prediction transform: dense, activation, layer norm."""

    def __init__(self, shape: Architecture) -> None:
        dense, norm = Linear(shape.width, shape.width), nn.LayerNorm(shape.width, eps=shape.epsilon)
        super().__init__(dense, ACT2FN[shape.activation], norm)


class PrefixTransformer(nn.Module):
    """A UniLM-style prefix LM; the output layer is tied to the token embeddings."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape)
        self.blocks = nn.ModuleList(
            Block(shape, kinds) for kinds in attention_variants.by_layer(shape.attention, shape.layers)
        )
        self.final_norm = nn.LayerNorm(shape.width, eps=shape.epsilon) if shape.norm == "pre" else nn.Identity()
        self.transform = Transform(shape) if shape.transform else nn.Identity()
        self.output_bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def keep(self, checkpointing: str, every: int) -> None:
        """Let every so many-th block keep for its backward what a row of ``CHECKPOINTING`` says."""
        for block in self.blocks[every - 1 :: every]:
            block.keeping = CHECKPOINTING[checkpointing]  # type: ignore[assignment]

    def compile_blocks(self, compiled: bool) -> None:
        """Let ``torch.compile`` compile the blocks' passes over many rows, or not; steps of decoding stay plain."""
        for block in self.blocks:
            block.compiled = compiled  # type: ignore[assignment]

    def words(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        """Token embeddings of ids [...] as [..., D]; an id below 0 is no token at all, a vector of zeros.

        ``table`` [V, D] stands in for the token embeddings.
        """
        rows = functional.embedding(ids.clamp(min=0), self.embedding.tokens.weight if table is None else table)
        return rows * (ids >= 0)[..., None]

    def encode(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> Memory:
        """Encode sources [B, S] of the given lengths [B]; the last layer computes only what targets attend to.

        ``words`` [B, S, D] stand in for the sources' token embeddings.
        """
        x, mask = self.embed_source(source, lengths, words)
        layers = []
        for block in self.blocks[:-1]:
            x, cached = block(x, mask)
            layers.append(cached)
        layers.append(self.blocks[-1](x)[1])
        return Memory(tuple(layers), lengths, mask)

    def encode_whole(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """What ``encode`` gives, and the last layer's rows as ``source_hidden`` does, from one pass."""
        x, mask = self.embed_source(source, lengths)
        layers = []
        for block in self.blocks:
            x, cached = block(x, mask)
            layers.append(cached)
        return Memory(tuple(layers), lengths, mask), self.final_norm(x)

    def source_hidden(self, source: Tensor, lengths: Tensor) -> Tensor:
        """The last layer's rows of the sources, [B, S, D], as a BERT encoder gives them; padding rows mean nothing."""
        return self.encode_whole(source, lengths)[1]

    def decode(self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1) -> Tensor:
        """The last layer's rows [B, T, D] of target inputs [B, T], which stand right behind their own source.

        ``words`` [B, T, D] stand in for the targets' token embeddings. With ``copies``, T holds so many targets of
        equal width side by side; each stands right behind the source and sees no other.
        """
        x, mask, slots = self._embed_target(target, memory, words, copies)
        for block, cached in zip(self.blocks, memory.layers, strict=True):
            x, _ = block(x, mask, cached, slots)
        return self.final_norm(x)

    def source_attention(self, target: Tensor, memory: Memory) -> Tensor:
        """How the last layer's rows of targets [B, T] weigh their source's columns, [B, T, S], the mean of its heads.

        A row's weights sum to 1 with those of the target's own columns, which are left out.
        """
        x, mask, slots = self._embed_target(target, memory)
        for block, cached in zip(self.blocks[:-1], memory.layers, strict=False):
            x, _ = block(x, mask, cached, slots)
        weights = self.blocks[-1].weights(x, mask, memory.layers[-1], slots)  # type: ignore[operator]
        return weights.mean(dim=1)[..., : memory.mask.shape[-1]]

    def step(self, tokens: Tensor, column: int, memory: Memory, cache: Stack | None) -> tuple[Tensor, Stack]:
        """Decode one more token of each hypothesis: [N] ids at target column ``column``, N = B K.

        Returns the last layer's rows [N, D] and the grown cache, a tuple a layer.
        """
        lengths = memory.lengths.repeat_interleave(len(tokens) // len(memory.lengths))
        self._within(torch.tensor([column]), memory)
        x = self.embedding(self.words(tokens), lengths + column, segment=1)
        slot = self._target_slots(column + 1).first + column
        grown = []
        for index, (block, cached) in enumerate(zip(self.blocks, memory.layers, strict=True)):
            past = None if cache is None else cache[index]
            x, own = block.step(x, memory.mask, cached, past, slot)  # type: ignore[operator]
            grown.append(own)
        return self.final_norm(x), tuple(grown)

    def logits(self, hidden: Tensor, table: Tensor | None = None) -> Tensor:
        """Scores of the next token, [..., D] to [..., V]; ``table`` [V, D] stands in for the token embeddings."""
        weight = self.embedding.tokens.weight if table is None else table
        return functional.linear(self.transform(hidden), weight, self.output_bias)

    def _embed_target(
        self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1
    ) -> tuple[Tensor, Tensor, Slots]:
        columns = torch.arange(target.shape[1] // copies, device=target.device)
        positions = (memory.lengths[:, None] + self._within(columns, memory)).repeat(1, copies)
        x = self.embedding(self.words(target) if words is None else words, positions, segment=1)
        return x, _target_mask(memory.mask, len(columns), copies), self._target_slots(len(columns), copies)

    def embed_source(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The first block's rows [B, S, D] of sources [B, S], and the mask [B, 1, 1, S] of their padding."""
        columns = torch.arange(source.shape[1], device=source.device)
        if len(columns) > self.shape.positions:
            raise ValueError(
                f"a source of {len(columns)} tokens is beyond the model's {self.shape.positions} positions"
            )
        self._check_slots("source", len(columns), self.shape.source_slots)
        x = self.embedding(self.words(source) if words is None else words, columns[None], segment=0)
        mask = torch.zeros(source.shape, dtype=x.dtype, device=x.device)
        return x, mask.masked_fill(columns >= lengths[:, None], -torch.inf)[:, None, None]

    def _target_slots(self, columns: int, copies: int = 1) -> Slots:
        """The slots of so many target columns, once they are known to have some."""
        self._check_slots("target", columns, self.shape.target_slots)
        return Slots(self.shape.source_slots, columns, copies)

    def _check_slots(self, side: str, columns: int, slots: int) -> None:
        if self.shape.has_slots and columns > slots:
            raise ValueError(f"a {side} of {columns} tokens is beyond the model's {slots} {side} slots")

    def _within(self, columns: Tensor, memory: Memory) -> Tensor:
        """The columns, once none of them is known to lie beyond the position table."""
        added, positions = int(columns[-1]) + 1, self.shape.positions
        if memory.mask.shape[-1] + added > positions:  # padding may be why; only then is a GPU waited for
            longest = int(memory.lengths.max()) + added
            if longest > positions:
                raise ValueError(f"source and target of {longest} tokens are beyond the model's {positions} positions")
        return columns


def _target_mask(source_mask: Tensor, columns: int, copies: int) -> Tensor:
    """[B, 1, K T, S + K T] of the source's [B, 1, 1, S]: a target row sees its source, itself and its copy's past."""
    rows, width = source_mask.shape[0], copies * columns
    causal = source_mask.new_full((columns, columns), -torch.inf).triu(1)
    own = source_mask.new_full((copies, columns, copies, columns), -torch.inf)
    own.diagonal(dim1=0, dim2=2).copy_(causal[..., None])
    own = own.view(width, width)
    return torch.cat([source_mask.expand(rows, 1, width, -1), own.expand(rows, 1, -1, -1)], dim=-1)
