"""The protocol of a model: a source is encoded once, and any number of targets is decoded against it.

Losses, mitigations, heads, searches and the diagnosis know a model by this class alone. ``PrefixTransformer`` is one,
and ``s2s.model.backbones`` makes encoder-decoders and causal language models of ``transformers`` into others.

Shapes: B sources of S columns, T target columns, D the width, V rows of the table; N = B K hypotheses in decoding, K a
source. Batches are padded on the right, whatever a model does with them inside.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from s2s.model.attention import Cached
from s2s.model.output_rows import OutputRows

Stack = tuple[Cached, ...]
"""The cached tensors of each layer, the first dimension of each being that of the batch."""


class Memory(NamedTuple):
    """The encoded source: each layer's cached tensors, the lengths [B], and the mask [B, ...] of its padding.

    The mask has the form that its model reads.
    """

    layers: Stack
    lengths: Tensor
    mask: Tensor

    def rows(self, index: Tensor) -> "Memory":
        """Return the memory of some of its sources, which may repeat."""
        layers = tuple(tuple(part[index] for part in layer) for layer in self.layers)
        return Memory(layers, self.lengths[index], self.mask[index])

    def repeated(self, times: int) -> "Memory":
        """Return the memory with each source a number of times, one after the other."""
        if times == 1:
            return self
        layers = tuple(tuple(part.repeat_interleave(times, dim=0) for part in layer) for layer in self.layers)
        return Memory(layers, *(part.repeat_interleave(times, dim=0) for part in (self.lengths, self.mask)))

    def contiguous(self) -> "Memory":
        """Return the same in contiguous tensors, for many steps: products of one row copy views of heads each time."""
        return self._replace(layers=tuple(tuple(part.contiguous() for part in layer) for layer in self.layers))


class Shape:
    """The sizes of a model; subclasses are dataclasses, saved with a run, so that loading needs no checkpoint."""

    vocabulary: int  # rows of the table, which may be more than the vocabulary has pieces
    layers: int
    width: int
    heads: int
    feed_forward: int
    positions: int  # the greatest number of columns of a source, and of a target where both share them

    def needed(self, source: int, target: int) -> int:
        """Return how many of the positions a source and a target of these numbers of tokens need."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def room(self, source: int) -> int:
        """Return the greatest number of target tokens after a source of ``source`` tokens."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def fits(self, source: int, target: int) -> bool:
        """Return whether a model of this shape takes sources and targets of these numbers of tokens."""
        return self.needed(source, target) <= self.positions


def check_positions(columns: int, lengths: Tensor, target: int, positions: int) -> None:
    """Raise a ValueError where a target of ``target`` tokens has no position after a source.

    The sources have the given lengths [B], padded to ``columns``.
    """
    # Padding alone may reach beyond the table; only then are lengths looked at, which may have to wait for a GPU.
    if columns + target > positions:
        longest = int(lengths.max()) + target
        if longest > positions:
            raise ValueError(f"source and target of {longest} tokens are beyond the model's {positions} positions")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put all parts of a module into evaluation mode, and each back into its own at the end."""
    # One by one, as a user may have put some parts of a model into evaluation mode for good.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class Backbone(nn.Module):
    """A model of targets given sources."""

    shape: Shape
    gives_attention: ClassVar[bool] = False
    """Whether a subclass implements ``source_attention``, which searches with a coverage penalty ask for."""
    shares_memory: ClassVar[bool] = True
    """Whether ``step`` reads a source's memory once for all its hypotheses; else it makes a copy for each of them."""
    measured: tuple[str, ...] = ()
    """Attributes that are measured with the weights, and told to a model that is made without them (on "meta")."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters, on which inputs must be."""
        return self.token_table.device

    @property
    def token_table(self) -> Tensor:
        """The table [V, D] of the token embeddings."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def words(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        """Return token embeddings [..., D] of ids [...]; an id below 0 is no token, and its vector is zeros.

        ``table`` [V, D] replaces the token embeddings.
        """
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def encode(self, source: Tensor, lengths: Tensor, words: Tensor | None = None) -> Memory:
        """Encode sources [B, S] of the given lengths [B]; ``words`` [B, S, D] replace their token embeddings."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def encode_whole(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor]:
        """Return the results of ``encode`` and of ``source_hidden`` from one pass."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def source_hidden(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Return the last rows [B, S, D] of the sources, which heads read; ignore padding rows."""
        return self.encode_whole(source, lengths)[1]

    def decode(self, target: Tensor, memory: Memory, words: Tensor | None = None, copies: int = 1) -> Tensor:
        """Return the last rows [B, T, D] of target inputs [B, T].

        ``words`` [B, T, D] replace the targets' token embeddings. With ``copies``, T holds this number of targets of
        equal width side by side; each follows the source and sees no other copy.
        """
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def step(self, tokens: Tensor, column: int, memory: Memory, cache: Stack | None) -> tuple[Tensor, Stack]:
        """Decode one more token of each hypothesis: ids [N] at target column ``column``.

        Returns the last rows [N, D] and the grown cache.
        """
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def logits(self, hidden: Tensor, table: Tensor | None = None) -> Tensor:
        """Return scores [..., V] of the next token after rows [..., D].

        ``table`` [V, D] replaces the token embeddings, where the output is tied to them.
        """
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def output(self, hidden: Tensor) -> OutputRows | None:
        """Return the parts of ``logits`` for rows [..., D], or None where these are no product with a table."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def source_attention(self, target: Tensor, memory: Memory) -> Tensor:
        """Return the last layer's weights [B, T, S] of target rows for source columns, the mean of its heads."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def stacks(self) -> list[list[nn.Module]]:
        """Return the layers of each stack, in order: each is recomputed as a whole, and sharded as one."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def tie(self) -> None:
        """Make parameters with several names one again, after each name was given a tensor; most models have none."""

    def keep(self, checkpointing: str, every: int) -> None:
        """Apply an activation-checkpointing policy to every ``every``-th layer."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def compile_blocks(self, compiled: bool) -> None:
        """Choose whether ``torch.compile`` compiles the layers' passes over many rows."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own

    def freeze_output(self) -> None:
        """Freeze the parameters that serve nothing but the output, for runs that only train heads."""
        raise NotImplementedError  # each row of s2s.model.backbones.BACKBONES has its own
