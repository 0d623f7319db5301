"""Scores of finished hypotheses by their lengths, rules that stop a search, and lengths relative to the source's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from s2s.config.ranges import Exponent, Number, Range, Ratio, marks

(EXPONENTS,) = marks(Exponent)
(REWARDS,) = marks(Number)
(RATIOS,) = marks(Ratio)

LengthScore = Callable[[float, int], float]
"""A function of the summed log-probability and the length (at least 1, the end counted) that returns the score.

A greater sum may not give a lower score. At a fixed sum the score only rises or only falls with the length, or falls
and then rises: the best score within a range of lengths is then at one of the range's ends, on which ``best_reachable``
and so the safe stop rely.
"""


@dataclass(frozen=True)
class PowerPenalty:
    """sum / length ** ``power``: 0 is the sum, 1 the average (Cho et al. 2014)."""

    power: float = 0.0

    def __post_init__(self) -> None:
        _check("length_penalty", self.power, EXPONENTS)

    def __call__(self, total: float, length: int) -> float:
        return total / length**self.power


@dataclass(frozen=True)
class TranslationPenalty:
    """sum / ((5 + length) / 6) ** ``alpha`` (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14)."""

    alpha: float = 0.6

    def __post_init__(self) -> None:
        _check("translation_alpha", self.alpha, EXPONENTS)

    def __call__(self, total: float, length: int) -> float:
        return total / ((5 + length) / 6) ** self.alpha


@dataclass(frozen=True)
class WordReward:
    """sum + ``gamma`` * length (He et al. 2016, "Improved NMT with SMT Features"); ``gamma`` is in nats a token."""

    gamma: float

    def __post_init__(self) -> None:
        _check("word_reward", self.gamma, REWARDS)

    def __call__(self, total: float, length: int) -> float:
        return total + self.gamma * length


def _check(name: str, value: float, allowed: Range) -> None:
    """Raise a ValueError for a number that would reverse the order of scores, or give infinite ones."""
    if not allowed.holds(value):
        raise ValueError(f"{name}: {value} is not in {allowed}")


def best_reachable(score: LengthScore, total: float, shortest: int, longest: int) -> float:
    """Return the highest score of a sum of at most ``total`` at a length from ``shortest`` to ``longest``."""
    return max(score(total, shortest), score(total, longest))


def relative_lengths(sources: Sequence[int], ratio: float, offset: int = 0, limit: int | None = None) -> list[int]:
    """Return ``ratio`` * length + ``offset`` for each source's length, rounded down, within 0 .. ``limit``."""
    if not RATIOS.holds(ratio):
        raise ValueError(f"a ratio of lengths is from {RATIOS.low} to {RATIOS.high}, not {ratio}")
    lengths = [max(0, _rounded_down(ratio, source) + offset) for source in sources]
    return lengths if limit is None else [min(length, limit) for length in lengths]


def _rounded_down(ratio: float, length: int) -> int:
    # In floating point 0.29 * 100 is 28.999999999999996; as a fraction of its decimal digits it is 29.
    return max(math.floor(ratio * length), math.floor(Fraction(str(ratio)) * length))


class SearchStatus(NamedTuple):
    """The state of one source's search, from which a ``Stop`` decides."""

    total: float  # the largest sum of its live hypotheses
    shortest: int  # the least length, end included, that one of them can still have
    longest: int  # the greatest such length
    worst: float  # the score of the last of the n best found, -inf while there are fewer
    score: LengthScore


Stop = Callable[[SearchStatus], bool]
"""A function that returns whether the search of a source stops."""


def nothing_better_can_come(status: SearchStatus) -> bool:
    """Stop where no live hypothesis can become better than the last of the n best; this changes no result.

    A sum is at most 0 and can only fall, so the score of the present sum at the best length is a bound of all scores to
    come (Huang, Zhao and Ma, 2017, "When to Finish?").
    """
    total, shortest, longest, worst, score = status
    return worst > -math.inf and best_reachable(score, total, shortest, longest) <= worst


def nothing_better_ends_now(status: SearchStatus) -> bool:
    """Stop where the likeliest live hypothesis would not be among the n best if it ended now at no cost: a heuristic.

    With a score that rises with the length, it misses hypotheses that would have caught up.
    """
    return status.score(status.total, status.shortest) <= status.worst


def enough_are_found(status: SearchStatus) -> bool:
    """Stop where n hypotheses have finished, the best ones or not: a heuristic."""
    return status.worst > -math.inf


def never(_: SearchStatus) -> bool:
    """Search to the greatest length, with the results of the safe stop."""
    return False


STOPS: dict[str, Stop] = {
    "safe": nothing_better_can_come,
    "heuristic": nothing_better_ends_now,
    "first": enough_are_found,
    "never": never,
}
