"""The model as a scorer: cached keys and values, the source's shared by its hypotheses."""

from typing import NamedTuple

import torch
from torch import Tensor

from s2s.model import Memory, PrefixTransformer
from s2s.model.attention import Cached


class State(NamedTuple):
    """The live sources' memory, the hypotheses' own keys and values, and which source each row belongs to."""

    memory: Memory
    cache: tuple[Cached, ...] | None
    owners: Tensor  # [N] into the memory's rows, in order, the same number of rows each
    column: int


class PrefixScorer:
    """Log-probabilities of a prefix LM for a batch of sources [B, S] of the given lengths [B]."""

    def __init__(self, model: PrefixTransformer, source: Tensor, lengths: Tensor, begin: int, end: int) -> None:
        self.model = model
        self.source, self.lengths = source, lengths
        self.sources = len(source)
        self.begin, self.end = begin, end

    def start(self) -> State:
        """Encode the sources; one row each."""
        memory = self.model.encode(self.source, self.lengths)
        return State(memory, None, torch.arange(self.sources, device=self.source.device), 0)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities [N, V] of what follows the tokens [N], in float32."""
        tokens = tokens.to(self.source.device)
        hidden, cache = self.model.step(tokens, state.column, state.memory, state.cache)
        log_probs = self.model.logits(hidden).float().log_softmax(dim=-1)
        return log_probs, state._replace(cache=cache, column=state.column + 1)

    def reorder(self, state: State, index: Tensor) -> State:
        """The rows at ``index`` [M]; sources without a row are forgotten."""
        index = index.to(state.owners.device)
        live, owners, rows = state.owners[index].unique_consecutive(return_inverse=True, return_counts=True)
        if len(rows) and bool((rows != rows[0]).any()):
            raise ValueError(f"every source needs the same number of rows, not {rows.tolist()}")
        memory = state.memory if len(live) == len(state.memory.lengths) else _select(state.memory, live)
        cache = state.cache and tuple(tuple(part[index] for part in layer) for layer in state.cache)
        return State(memory, cache, owners, state.column)


def _select(memory: Memory, rows: Tensor) -> Memory:
    """The memory of some of its sources."""
    layers = tuple(tuple(part[rows] for part in layer) for layer in memory.layers)
    return Memory(layers, memory.lengths[rows], memory.mask[rows])
