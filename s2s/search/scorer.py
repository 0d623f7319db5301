"""What a search asks of a model: the log-probabilities of the next token, and a state whose rows can be moved."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")


class Scorer(Protocol[State]):
    """The distribution of the next token given a source and the tokens so far, a row a hypothesis.

    The first step has one row a source, in order. Every step but the last is followed by one ``reorder``, after which
    each source still searched has exactly as many rows as there are beams. The rows of one source stand together and
    the sources keep their order, so that rows can be viewed as [sources, beams]. Where a source has fewer live
    hypotheses than beams, the other rows repeat its best one; what is scored for them is ignored, but may not be NaN.
    The rows of a source that is done are dropped by ``reorder`` and never come back. A state is asked once: the step or
    the reorder that follows may write into it, so a search keeps the newest alone.
    """

    @property
    def sources(self) -> int:
        """How many sources ``start`` makes a row for."""

    @property
    def begin(self) -> int:
        """The token that every row is fed at the first step."""

    @property
    def end(self) -> int:
        """The token that completes a hypothesis, in [0, V)."""

    def start(self) -> State:
        """The state before the first step, a row a source."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Feed each row its next token: log-probabilities [N, V] of the token after it, and the state that follows.

        ``tokens`` is int64 [N], on the CPU at the first step and from then on where the log-probabilities are. These
        are at most 0 (a search stops early because sums can only fall), -inf for what is impossible, and never NaN.
        """

    def reorder(self, state: State, index: Tensor) -> State:
        """The state whose row i is row ``index[i]`` of ``state``; ``index`` is int64 [M], rows may repeat or vanish."""


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


class Watched(Generic[State]):
    """A scorer that calls ``check`` before each piece of work; what it raises, a deadline's error say, ends the search.

    Nothing else changes: the states and the log-probabilities are the inner scorer's own.
    """

    def __init__(self, scorer: Scorer[State], check: Callable[[], object]) -> None:
        self.scorer, self.check = scorer, check
        self.sources, self.begin, self.end = scorer.sources, scorer.begin, scorer.end

    def start(self) -> State:
        """Return the inner start."""
        self.check()
        return self.scorer.start()

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the inner step."""
        self.check()
        return self.scorer.step(tokens, state)

    def reorder(self, state: State, index: Tensor) -> State:
        """Return the inner reorder."""
        return self.scorer.reorder(state, index)
