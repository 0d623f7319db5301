"""What a headline is."""

from collections.abc import Callable
from typing import NamedTuple

from s2s.diagnose.measures import Measures
from s2s.metrics.bootstrap import Measure, Numbers

LOWER, NEITHER, HIGHER = -1, 0, 1
"""Which way is better."""


class Headline(NamedTuple):
    """A number of a run: its key, what it is in words, its unit, which way is better, and how it is computed."""

    name: str
    title: str
    unit: str
    better: int
    statistics: Callable[[Measures], Numbers]  # [N, F]
    measure: Measure
