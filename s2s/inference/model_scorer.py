"""The model as a scorer for searches: encoded sources, and keys and values of the tokens so far."""

from typing import Any, cast

import torch
from torch import Tensor

from s2s.inference.kv_cache import SeparateCache, SharedCache, begin
from s2s.inference.packed_model import DecodingModel, laid_out
from s2s.model.backbone import Backbone
from s2s.search.hypotheses import on_device

State = SharedCache | SeparateCache


class PrefixScorer:
    """Log-probabilities of a model for a batch of sources [B, S] of the given lengths [B].

    ``size`` cuts them to a vocabulary's pieces, where the model's table has more rows.
    """

    def __init__(
        self,
        model: Backbone | DecodingModel,
        source: Tensor,
        lengths: Tensor,
        begin: int,
        end: int,
        size: int | None = None,
    ) -> None:
        self.packed = laid_out(model) if isinstance(model, Backbone) else model
        self.source, self.lengths, self.size = source, lengths, size
        self.sources, self.begin, self.end = len(source), begin, end

    @torch.no_grad()
    def start(self) -> State:
        return begin(self.packed, self.packed.encode(self.source, self.lengths))

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log-probabilities [N, V] of the token after the tokens [N], in float32, and the following state."""
        hidden, state = state.step(cast(Any, self.packed), on_device(tokens, self.source.device))
        return self.packed.log_probs(hidden)[:, : self.size], state

    @torch.no_grad()
    def reorder(self, state: State, index: Tensor) -> State:
        """Return the state of the hypotheses ``index`` [M]; sources without one are dropped.

        Raises ValueError where sources keep different numbers of hypotheses; a GPU is not asked whether they do.
        """
        index = index.to(self.source.device)
        # From the first reorder on each source has one number of rows, as ``Scorer`` promises: nothing is left to ask.
        if index.is_cuda and state.steps > 1:
            return state.reorder(index[:: state.hypotheses] // state.hypotheses, index)
        # No sort is needed: a source's rows are adjacent and sources keep their order, as ``Scorer`` promises.
        sources, counts = (index // state.hypotheses).unique_consecutive(return_counts=True)
        if len(counts) and not index.is_cuda and bool((counts != counts[0]).any()):
            raise ValueError(f"every source needs the same number of rows, not {counts.tolist()}")
        return state.reorder(sources, index)
