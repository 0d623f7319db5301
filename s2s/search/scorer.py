"""What a search asks of a model: the log-probabilities of the next token, and a state whose rows can be moved."""

from typing import Protocol, TypeVar

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
