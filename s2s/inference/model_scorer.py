"""The model as a scorer: cached keys and values, the source's shared by its hypotheses."""

from typing import NamedTuple

import torch
from torch import Tensor

from s2s.inference import kv_cache
from s2s.inference.kv_cache import Shared
from s2s.inference.packed_model import PreparedModel
from s2s.model import Memory, PrefixTransformer
from s2s.model.attention import Cached

ROOM = 128
"""Columns of all hypotheses of a source that are reserved at first."""


class Separate(NamedTuple):
    """The live sources' memory, the hypotheses' own keys and values, and which source each row belongs to."""

    memory: Memory
    cache: tuple[Cached, ...] | None
    owners: Tensor  # [N] into the memory's rows, in order, the same number of rows each
    column: int

    def step(self, model: PreparedModel, tokens: Tensor) -> tuple[Tensor, "Separate"]:
        """The last layer's rows [N, D] of the next tokens [N], and the state that follows."""
        hidden, cache = model.model.step(tokens, self.column, self.memory, self.cache)
        return hidden, self._replace(cache=cache, column=self.column + 1)

    def reorder(self, sources: Tensor, index: Tensor) -> "Separate":
        """The rows at ``index`` [M]: the ``sources`` that have any, the same number each."""
        memory = self.memory if len(sources) == len(self.memory.lengths) else select_rows(self.memory, sources)
        cache = self.cache and tuple(tuple(part[index] for part in layer) for layer in self.cache)
        owners = torch.arange(len(sources), device=index.device).repeat_interleave(len(index) // len(sources))
        return Separate(memory, cache, owners, self.column)


State = Shared | Separate


class PrefixScorer:
    """Log-probabilities of a prefix LM for a batch of sources [B, S] of the given lengths [B].

    A state is used up by the step or the reorder that follows it.
    """

    def __init__(
        self, model: PrefixTransformer | PreparedModel, source: Tensor, lengths: Tensor, begin: int, end: int
    ) -> None:
        self.prepared = model if isinstance(model, PreparedModel) else PreparedModel(model)
        self.source, self.lengths = source, lengths
        self.sources = len(source)
        self.begin, self.end = begin, end

    @property
    def model(self) -> PrefixTransformer:
        """The model that encodes the sources."""
        return self.prepared.model

    @torch.no_grad()
    def start(self) -> State:
        """Encode the sources; one row each."""
        memory = self.prepared.encode(self.source, self.lengths)
        if self.prepared.blocks:
            return kv_cache.begin(memory, ROOM)
        return Separate(memory, None, torch.arange(self.sources, device=self.source.device), 0)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities [N, V] of what follows the tokens [N], in float32."""
        hidden, state = state.step(self.prepared, tokens.to(self.source.device))
        return self.prepared.log_probs(hidden), state

    @torch.no_grad()
    def reorder(self, state: State, index: Tensor) -> State:
        """The rows at ``index`` [M]; sources without a row are forgotten."""
        index = index.to(self.source.device)
        owners = index // state.seen.shape[1] if isinstance(state, Shared) else state.owners[index]
        sources, rows = owners.unique_consecutive(return_counts=True)
        if len(rows) and bool((rows != rows[0]).any()):
            raise ValueError(f"every source needs the same number of rows, not {rows.tolist()}")
        if isinstance(state, Shared) and len(index) > state.buffer.wide * len(sources):
            return _apart(state, sources, index)
        return state.reorder(sources, index)


def _apart(state: Shared, sources: Tensor, index: Tensor) -> Separate:
    """The rows at ``index`` [M], each with its own keys and values."""
    memory, cache = state.separate(index)
    owners = torch.arange(len(sources), device=index.device).repeat_interleave(len(index) // len(sources))
    return Separate(select_rows(memory, sources), cache if state.column else None, owners, state.column)


def select_rows(memory: Memory, rows: Tensor) -> Memory:
    """The memory of some of its sources."""
    layers = tuple(tuple(part[rows] for part in layer) for layer in memory.layers)
    return Memory(layers, memory.lengths[rows], memory.mask[rows])
