"""The model as a scorer for searches: encoded sources, and keys and values of the tokens so far."""

import torch
from torch import Tensor

from s2s.inference.kv_cache import SeparateCache, SharedCache, begin
from s2s.inference.packed_model import PackedModel
from s2s.model.transformer import PrefixTransformer

State = SharedCache | SeparateCache


class PrefixScorer:
    """Log-probabilities of a prefix LM for a batch of sources [B, S] of the given lengths [B]."""

    def __init__(
        self, model: PrefixTransformer | PackedModel, source: Tensor, lengths: Tensor, begin: int, end: int
    ) -> None:
        self.packed = model if isinstance(model, PackedModel) else PackedModel(model)
        self.source, self.lengths = source, lengths
        self.sources, self.begin, self.end = len(source), begin, end

    @torch.no_grad()
    def start(self) -> State:
        return begin(self.packed, self.packed.encode(self.source, self.lengths))

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log-probabilities [N, V] of the token after the tokens [N], in float32, and the following state."""
        hidden, state = state.step(self.packed, tokens.to(self.source.device))
        return self.packed.log_probs(hidden), state

    @torch.no_grad()
    def reorder(self, state: State, index: Tensor) -> State:
        """Return the state of the hypotheses ``index`` [M]; sources without one are dropped.

        Raises ValueError where sources keep different numbers of hypotheses.
        """
        index = index.to(self.source.device)
        # No sort is needed: a source's rows are adjacent and sources keep their order, as ``Scorer`` promises.
        sources, counts = (index // state.hypotheses).unique_consecutive(return_counts=True)
        if len(counts) and bool((counts != counts[0]).any()):
            raise ValueError(f"every source needs the same number of rows, not {counts.tolist()}")
        return state.reorder(sources, index)
