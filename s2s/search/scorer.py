"""The interface of a model for searches: log-probabilities of the next token, and a state whose rows can be moved."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")


class Scorer(Protocol[State]):
    """The distribution of the next token given a source and the tokens so far, with a row for each hypothesis.

    The first step has one row for each source, in order. Every step but the last is followed by one ``reorder``, after
    which each source still searched has exactly one row for each beam. The rows of a source are adjacent and the
    sources keep their order, so that rows can be viewed as [sources, beams]. Where a source has fewer live hypotheses
    than beams, the other rows repeat its best one; their log-probabilities are ignored, but may not be NaN. ``reorder``
    drops the rows of a finished source, which never come back. On a GPU a search may only learn some steps later that a
    source has finished: until then, but not beyond its greatest length, its rows stay, with any tokens after their
    ends. A state is used once: the next step or reorder may write into it, so a search keeps only the newest.
    """

    @property
    def sources(self) -> int:
        """The number of sources, for each of which ``start`` makes a row."""

    @property
    def begin(self) -> int:
        """The token that every row gets at the first step."""

    @property
    def end(self) -> int:
        """The token that completes a hypothesis, in [0, V)."""

    def start(self) -> State:
        """Return the state before the first step, with a row for each source."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Give each row its next token; return log-probabilities [N, V] of the token after it and the new state.

        ``tokens`` is int64 [N], on the CPU at the first step and afterwards on the log-probabilities' device. These are
        at most 0 (a search stops early because sums can only fall), -inf for impossible tokens, and never NaN.
        """

    def reorder(self, state: State, index: Tensor) -> State:
        """Return the state whose row i is row ``index[i]`` of ``state``; int64 [M], rows may repeat or be absent."""


class Ensemble:
    """The weighted mean of several scorers' probabilities; the weights are positive and are scaled to sum to 1."""

    def __init__(self, scorers: Sequence[Scorer[Any]], weights: Sequence[float] | None = None) -> None:
        given = [1.0] * len(scorers) if weights is None else list(weights)
        if not scorers or len(given) != len(scorers) or not all(0 < weight < math.inf for weight in given):
            raise ValueError(f"an ensemble has scorers with a positive weight each, not {len(scorers)} with {given}")
        if len({(scorer.sources, scorer.begin, scorer.end) for scorer in scorers}) > 1:
            raise ValueError("the scorers of an ensemble differ in sources, begin or end")
        greatest = max(given)  # divided by it, neither the weights nor their sum can overflow
        total = math.log(greatest) + math.log(math.fsum(weight / greatest for weight in given))
        self.scorers, self.logs = list(scorers), [math.log(weight) - total for weight in given]
        self.sources, self.begin, self.end = scorers[0].sources, scorers[0].begin, scorers[0].end

    def start(self) -> tuple[Any, ...]:
        return tuple(scorer.start() for scorer in self.scorers)

    def step(self, tokens: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """Return log(sum of weight * probability) [N, V]; raise a ValueError where vocabularies differ in size."""
        steps = [scorer.step(tokens, part) for scorer, part in zip(self.scorers, state, strict=True)]
        sizes = [log_probs.size(1) for log_probs, _ in steps]
        if len(set(sizes)) > 1:
            raise ValueError(f"the scorers of an ensemble have vocabularies of {sizes} tokens")
        parts = [log_probs + log for (log_probs, _), log in zip(steps, self.logs, strict=True)]
        # Rounding may lift the mean of probabilities near 1 above 1.
        mean = torch.stack(parts).logsumexp(dim=0).clamp(max=0.0)
        return mean, tuple(part for _, part in steps)

    def reorder(self, state: tuple[Any, ...], index: Tensor) -> tuple[Any, ...]:
        return tuple(scorer.reorder(part, index) for scorer, part in zip(self.scorers, state, strict=True))


class WrappedScorer(Generic[State]):
    """A scorer that does everything as the inner one; subclasses change a part."""

    def __init__(self, scorer: Scorer[State]) -> None:
        self.scorer = scorer
        self.sources, self.begin, self.end = scorer.sources, scorer.begin, scorer.end

    def start(self) -> State:
        return self.scorer.start()

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        return self.scorer.step(tokens, state)

    def reorder(self, state: State, index: Tensor) -> State:
        return self.scorer.reorder(state, index)


class Watched(WrappedScorer[State]):
    """A scorer that calls ``check`` before each piece of work, so that its exception ends the search."""

    def __init__(self, scorer: Scorer[State], check: Callable[[], object]) -> None:
        super().__init__(scorer)
        self.check = check

    def start(self) -> State:
        self.check()
        return self.scorer.start()

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        self.check()
        return self.scorer.step(tokens, state)
