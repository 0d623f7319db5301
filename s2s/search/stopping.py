"""When to leave a source: a search asks after each step, as long as the source has live hypotheses."""

import math
from collections.abc import Callable
from typing import NamedTuple

from s2s.search.lengths import LengthScore, best_reachable


class Standing(NamedTuple):
    """How the search of one source stands."""

    total: float  # the largest sum of its live hypotheses
    shortest: int  # the least length, end included, that one of them can still be finished with
    longest: int  # the greatest
    worst: float  # the score of the last of the n best found, -inf while there are fewer
    score: LengthScore


Stop = Callable[[Standing], bool]


def nothing_better_can_come(standing: Standing) -> bool:
    """Whether no live hypothesis can come before the last of the n best: it changes no result.

    A sum is at most 0 and can only fall, so what this sum is worth at the best length bounds all that is to come
    (Huang, Zhao and Ma, 2017, "When to Finish?").
    """
    total, shortest, longest, worst, score = standing
    return worst > -math.inf and best_reachable(score, total, shortest, longest) <= worst


def nothing_better_ends_now(standing: Standing) -> bool:
    """A heuristic: whether the likeliest live hypothesis, were it to end now at no cost, would not be among the n best.

    Where a longer hypothesis is worth more at one sum, one that would have come from behind is missed.
    """
    return standing.score(standing.total, standing.shortest) <= standing.worst


def enough_are_found(standing: Standing) -> bool:
    """A heuristic: whether n hypotheses have been found, the best ones or not."""
    return standing.worst > -math.inf


def never(_: Standing) -> bool:
    """Search to the greatest length; what it finds is what the safe stop finds."""
    return False


STOPS: dict[str, Stop] = {
    "safe": nothing_better_can_come,
    "heuristic": nothing_better_ends_now,
    "first": enough_are_found,
    "never": never,
}
