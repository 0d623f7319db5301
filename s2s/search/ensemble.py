"""Several scorers of one vocabulary as one."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.search.scorer import Scorer


class Ensemble:
    """The mean of the scorers' probabilities, weighted; the weights are positive and are made to sum to 1."""

    def __init__(self, scorers: Sequence[Scorer[Any]], weights: Sequence[float] | None = None) -> None:
        given = [1.0] * len(scorers) if weights is None else list(weights)
        if not scorers or len(given) != len(scorers) or not all(0 < weight < math.inf for weight in given):
            raise ValueError(f"an ensemble has scorers with a positive weight each, not {len(scorers)} with {given}")
        if len({(scorer.sources, scorer.begin, scorer.end) for scorer in scorers}) > 1:
            raise ValueError("the scorers of an ensemble differ in sources, begin or end")
        greatest = max(given)  # neither a sum nor a share of what is divided by it can overflow
        total = math.log(greatest) + math.log(math.fsum(weight / greatest for weight in given))
        self.scorers, self.logs = list(scorers), [math.log(weight) - total for weight in given]
        self.sources, self.begin, self.end = scorers[0].sources, scorers[0].begin, scorers[0].end

    def start(self) -> tuple[Any, ...]:
        """A state a scorer."""
        return tuple(scorer.start() for scorer in self.scorers)

    def step(self, tokens: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """log(sum of weight * probability) [N, V]; ValueError where the vocabularies differ in size."""
        steps = [scorer.step(tokens, part) for scorer, part in zip(self.scorers, state, strict=True)]
        sizes = [log_probs.size(1) for log_probs, _ in steps]
        if len(set(sizes)) > 1:
            raise ValueError(f"the scorers of an ensemble have vocabularies of {sizes} tokens")
        parts = [log_probs + log for (log_probs, _), log in zip(steps, self.logs, strict=True)]
        # Rounding may lift the mean of probabilities near 1 above it.
        mean = torch.stack(parts).logsumexp(dim=0).clamp(max=0.0)
        return mean, tuple(part for _, part in steps)

    def reorder(self, state: tuple[Any, ...], index: Tensor) -> tuple[Any, ...]:
        """Each scorer's own reorder."""
        return tuple(scorer.reorder(part, index) for scorer, part in zip(self.scorers, state, strict=True))
