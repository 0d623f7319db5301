"""A scorer whose search can be ended from outside, at any of its steps."""

from collections.abc import Callable
from typing import Generic

from torch import Tensor

from s2s.search.scorer import Scorer, State


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
