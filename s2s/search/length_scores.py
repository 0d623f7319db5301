"""What a finished hypothesis is worth, given its length; and lengths that follow the source's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from s2s.config.ranges import Exponent, Number, Range, marks

(EXPONENTS,) = marks(Exponent)
(REWARDS,) = marks(Number)
MOST_RATIO = 1_000

LengthScore = Callable[[float, int], float]
"""(summed log-probability, length with the end) to the score; lengths are at least 1.

It may not fall with the sum, and at one sum it only rises or only falls with the length (or falls and then rises): the
best score within a range of lengths then stands at one of the range's ends, which is what ``best_reachable`` and so
every safe early stop rely on.
"""


@dataclass(frozen=True)
class PowerPenalty:
    """sum / length ** ``power``: 0 is the sum, 1 the average (Cho et al. 2014)."""

    power: float = 0.0

    def __post_init__(self) -> None:
        _check("length_penalty", self.power, EXPONENTS)

    def __call__(self, total: float, length: int) -> float:
        """The score."""
        return total / length**self.power


@dataclass(frozen=True)
class TranslationPenalty:
    """sum / ((5 + length) / 6) ** ``alpha`` (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14)."""

    alpha: float = 0.6

    def __post_init__(self) -> None:
        _check("translation_alpha", self.alpha, EXPONENTS)

    def __call__(self, total: float, length: int) -> float:
        """The score."""
        return total / ((5 + length) / 6) ** self.alpha


@dataclass(frozen=True)
class WordReward:
    """sum + ``gamma`` * length (He et al. 2016, "Improved NMT with SMT Features"); ``gamma`` is in nats a token."""

    gamma: float

    def __post_init__(self) -> None:
        _check("word_reward", self.gamma, REWARDS)

    def __call__(self, total: float, length: int) -> float:
        """The score."""
        return total + self.gamma * length


def _check(name: str, value: float, allowed: Range) -> None:
    """Refuse a number that would turn the order of scores, or end in no number, with a ValueError."""
    if not allowed.holds(value):
        raise ValueError(f"{name}: {value} is not in {allowed}")


def best_reachable(score: LengthScore, total: float, shortest: int, longest: int) -> float:
    """No hypothesis of a sum up to ``total`` and a length from ``shortest`` to ``longest`` scores higher."""
    return max(score(total, shortest), score(total, longest))


def relative_lengths(sources: Sequence[int], ratio: float, offset: int = 0, limit: int | None = None) -> list[int]:
    """``ratio`` * length + ``offset`` for each source's length, rounded down, within 0 .. ``limit``."""
    if not 0 <= ratio <= MOST_RATIO:
        raise ValueError(f"a ratio of lengths is from 0 to {MOST_RATIO}, not {ratio}")
    lengths = [max(0, _whole(ratio, source) + offset) for source in sources]
    return lengths if limit is None else [min(length, limit) for length in lengths]


def _whole(ratio: float, length: int) -> int:
    """Return ``ratio`` * ``length`` rounded down, where 0.29 times 100, in floating point 28.999999999999996, is 29."""
    return max(math.floor(ratio * length), math.floor(Fraction(str(ratio)) * length))


class SearchStatus(NamedTuple):
    """How the search of one source stands."""

    total: float  # the largest sum of its live hypotheses
    shortest: int  # the least length, end included, that one of them can still be finished with
    longest: int  # the greatest
    worst: float  # the score of the last of the n best found, -inf while there are fewer
    score: LengthScore


Stop = Callable[[SearchStatus], bool]


def nothing_better_can_come(standing: SearchStatus) -> bool:
    """Whether no live hypothesis can come before the last of the n best: it changes no result.

    A sum is at most 0 and can only fall, so what this sum is worth at the best length bounds all that is to come
    (Huang, Zhao and Ma, 2017, "When to Finish?").
    """
    total, shortest, longest, worst, score = standing
    return worst > -math.inf and best_reachable(score, total, shortest, longest) <= worst


def nothing_better_ends_now(standing: SearchStatus) -> bool:
    """A heuristic: whether the likeliest live hypothesis, were it to end now at no cost, would not be among the n best.

    Where a longer hypothesis is worth more at one sum, one that would have come from behind is missed.
    """
    return standing.score(standing.total, standing.shortest) <= standing.worst


def enough_are_found(standing: SearchStatus) -> bool:
    """A heuristic: whether n hypotheses have been found, the best ones or not."""
    return standing.worst > -math.inf


def never(_: SearchStatus) -> bool:
    """Search to the greatest length; what it finds is what the safe stop finds."""
    return False


STOPS: dict[str, Stop] = {
    "safe": nothing_better_can_come,
    "heuristic": nothing_better_ends_now,
    "first": enough_are_found,
    "never": never,
}
