"""The prefix LM: one Transformer whose source rows see the source and whose target rows see the source and their past.

Source rows never attend to target rows (UniLM's sequence-to-sequence mask, Dong et al. 2019), so ``encode`` computes
the source once and ``decode`` runs any number of targets against it; both together equal one masked forward.

Shapes: B sources of S columns, T target columns, D the width, V pieces; N = B K hypotheses in decoding, K a source.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model import attention_variants
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.model.architecture import Architecture
from s2s.model.attention import Slots, kernel_mask, step_mask, takes_ragged
from s2s.model.backbone import Backbone, Memory, Stack, check_positions
from s2s.model.block import Block
from s2s.model.layers import Dropout, Linear, activations
from s2s.model.output_rows import OutputRows, scores
from s2s.model.ragged_attention import Ragged, ragged


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
        """Return the sum [B, L, D] for token embeddings [B, L, D] at positions [B or 1, L]."""
        placed = self.positions(positions + self.offset) + self.segments.weight[segment]
        return self.dropout(self.norm(words + placed))


class Transform(nn.Sequential):
    """BERT's prediction transform: dense, activation, layer norm."""

    def __init__(self, shape: Architecture) -> None:
        dense, norm = Linear(shape.width, shape.width), nn.LayerNorm(shape.width, eps=shape.epsilon)
        super().__init__(dense, activations()[shape.activation], norm)


class PrefixTransformer(Backbone):
    """A UniLM-style prefix LM; the output layer is tied to the token embeddings."""

    shape: Architecture
    gives_attention = True

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

    @property
    def token_table(self) -> Tensor:
        """The table [V, D] of the token embeddings, to which the output is tied."""
        return self.embedding.tokens.weight

    def stacks(self) -> list[list[nn.Module]]:
        """Return the blocks, in order."""
        return [list(self.blocks)]

    def keep(self, checkpointing: str, every: int) -> None:
        """Apply an activation-checkpointing policy to every ``every``-th block."""
        for block in self.blocks[every - 1 :: every]:
            block.policy = CHECKPOINTING[checkpointing]  # type: ignore[assignment]

    def compile_blocks(self, compiled: bool) -> None:
        """Choose whether ``torch.compile`` compiles the blocks' passes over many rows; steps of decoding stay plain."""
        for block in self.blocks:
            block.compiled = compiled  # type: ignore[assignment]

    def words(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        """Return token embeddings [..., D] of ids [...]; an id below 0 is no token, and its vector is zeros.

        ``table`` [V, D] replaces the token embeddings.
        """
        rows = functional.embedding(ids.clamp(min=0), self.embedding.tokens.weight if table is None else table)
        return rows * (ids >= 0)[..., None]

    def encode(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> Memory:
        """Encode sources [B, S] of the given lengths [B]; the last layer computes only what targets attend to.

        ``words`` [B, S, D] replace the sources' token embeddings.
        """
        x, mask = self.embed_source(source, lengths, words)
        layers, seen = [], self._seen_sources(x, mask, lengths)
        for block in self.blocks:  # of the last one, without a mask, only the cached tensors are computed
            x, cached = block(x, None if block is self.blocks[-1] else seen)
            layers.append(cached)
        return Memory(tuple(layers), lengths, mask)

    def encode_whole(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """Return the results of ``encode`` and of ``source_hidden`` from one pass."""
        x, mask = self.embed_source(source, lengths)
        layers, seen = [], self._seen_sources(x, mask, lengths)
        for block in self.blocks:
            x, cached = block(x, seen)
            layers.append(cached)
        return Memory(tuple(layers), lengths, mask), self.final_norm(x)

    def decode(self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1) -> Tensor:
        """Return the last layer's rows [B, T, D] of target inputs [B, T], whose positions follow their own source's.

        ``words`` [B, T, D] replace the targets' token embeddings. With ``copies``, T holds this number of targets of
        equal width side by side; each has the positions after the source and sees no other copy.
        """
        x, slots = self._embed_target(target, memory, words, copies)
        if copies == 1 and self._is_ragged(x):
            seen: Tensor | Ragged = ragged(memory.lengths, memory.mask.shape[-1], slots.width)
        else:
            seen = _target_mask(x, memory.mask, slots)
        for block, cached in zip(self.blocks, memory.layers, strict=True):
            x, _ = block(x, seen, cached, slots)
        return self.final_norm(x)

    def source_attention(self, target: Tensor, memory: Memory) -> Tensor:
        """Return the last layer's weights [B, T, S] of target rows for source columns, the mean of its heads.

        A row's weights sum to 1 together with those of the target columns, which are left out.
        """
        x, slots = self._embed_target(target, memory)
        mask = _target_mask(x, memory.mask, slots)
        for block, cached in zip(self.blocks[:-1], memory.layers, strict=False):
            x, _ = block(x, mask, cached, slots)
        weights = self.blocks[-1].weights(x, mask, memory.layers[-1], slots)  # type: ignore[operator]
        return weights.mean(dim=1)[..., : memory.mask.shape[-1]]

    def step(self, tokens: Tensor, column: int, memory: Memory, cache: Stack | None) -> tuple[Tensor, Stack]:
        """Decode one more token of each hypothesis: ids [N] at target column ``column``.

        Returns the last layer's rows [N, D] and the grown cache.
        """
        lengths = memory.lengths.repeat_interleave(len(tokens) // len(memory.lengths))
        # The look-up of a position beyond the table would fail without naming the lengths.
        check_positions(memory.mask.shape[-1], memory.lengths, column + 1, self.shape.positions)
        x = self.embedding(self.words(tokens), lengths + column, segment=1)
        slot = self._target_slots(column + 1).first + column
        mask = step_mask(memory.mask, len(tokens), 1 if cache is None else cache[0][0].shape[2] + 1)
        grown = []
        for index, (block, cached) in enumerate(zip(self.blocks, memory.layers, strict=True)):
            past = None if cache is None else cache[index]
            x, past = block.step(x, mask, cached, past, slot)  # type: ignore[operator]
            grown.append(past)
        return self.final_norm(x), tuple(grown)

    def logits(self, hidden: Tensor, table: Tensor | None = None) -> Tensor:
        """Return scores [..., V] of the next token after rows [..., D]; ``table`` [V, D] replaces the embeddings."""
        weight = self.embedding.tokens.weight if table is None else table
        return scores(self.transform(hidden), weight, self.output_bias)

    def output(self, hidden: Tensor) -> OutputRows:
        """Return the parts of ``logits``: transformed rows, the token embeddings and the bias."""
        return OutputRows(self.transform(hidden), self.embedding.tokens.weight, self.output_bias)

    def freeze_output(self) -> None:
        """Freeze the bias and the transform of the output."""
        self.output_bias.requires_grad_(False)
        self.transform.requires_grad_(False)

    def _embed_target(
        self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1
    ) -> tuple[Tensor, Slots]:
        columns = torch.arange(target.shape[1] // copies, device=target.device)
        check_positions(memory.mask.shape[-1], memory.lengths, len(columns), self.shape.positions)
        positions = (memory.lengths[:, None] + columns).repeat(1, copies)
        x = self.embedding(self.words(target) if words is None else words, positions, segment=1)
        return x, self._target_slots(len(columns), copies)

    def _seen_sources(self, x: Tensor, mask: Tensor, lengths: Tensor) -> Tensor | Ragged:
        return ragged(lengths, x.shape[1]) if self._is_ragged(x) else kernel_mask(mask, x)

    def _is_ragged(self, x: Tensor) -> bool:
        return takes_ragged(x) and all(block.attention.packable for block in self.blocks)  # type: ignore[union-attr]

    def embed_source(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the first block's rows [B, S, D] of sources [B, S], and the mask [B, 1, 1, S] of their padding."""
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
        """Return the slots of the first ``columns`` target columns; raise a ValueError where there are too few."""
        self._check_slots("target", columns, self.shape.target_slots)
        return Slots(self.shape.source_slots, columns, copies)

    def _check_slots(self, side: str, columns: int, slots: int) -> None:
        if self.shape.has_slots and columns > slots:
            raise ValueError(f"a {side} of {columns} tokens is beyond the model's {slots} {side} slots")


def _target_mask(x: Tensor, source_mask: Tensor, slots: Slots) -> Tensor:
    """Return the mask [B, 1, K T, S + K T] for rows x of K copies of T columns, from the source's [B, 1, 1, S].

    A target row sees its source, itself and the past of its copy.
    """
    # The source's part is cast first, as the whole mask is many times as large.
    source_mask, columns, copies = kernel_mask(source_mask, x), slots.width, slots.copies
    rows, width = source_mask.shape[0], copies * columns
    causal = source_mask.new_full((columns, columns), -torch.inf).triu(1)
    target = source_mask.new_full((copies, columns, copies, columns), -torch.inf)
    # A view [T, T, K] of the blocks in which a copy meets itself; all others stay hidden.
    target.diagonal(dim1=0, dim2=2).copy_(causal[..., None])
    target = target.view(width, width)
    mask = torch.cat([source_mask.expand(rows, 1, width, -1), target.expand(rows, 1, -1, -1)], dim=-1)
    return kernel_mask(mask, x)
