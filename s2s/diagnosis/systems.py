"""Two systems' texts against the same references: differences of all scores, with their intervals and p-values."""

from collections.abc import Mapping
from typing import NamedTuple

from s2s.diagnosis.statistics import approximate_randomisation, paired_bootstrap
from s2s.errors import UserError
from s2s.metrics.overlap import Statistics

SAMPLES = 10_000


class Difference(NamedTuple):
    """The first system's score minus the second's, and its 95 % interval, in 0..100; two p-values for no difference."""

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float


def differences(
    first: Mapping[str, Statistics], second: Mapping[str, Statistics], samples: int = SAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """The difference in each score that both systems have, texts being drawn together for both.

    Raises ``UserError`` for statistics of different texts, and for less than one sample.
    """
    if samples < 1:
        raise UserError(f"samples: {samples} is not at least 1")
    return {name: _difference(first[name], second[name], samples, seed) for name in first if name in second}


def signature(samples: int = SAMPLES, seed: int = 0) -> str:
    """How ``differences`` are tested, for the signature of a result."""
    return (
        f"paired-bootstrap|samples:{samples}|seed:{seed}|interval:percentile-95 + "
        f"approximate-randomisation|trials:{samples}|seed:{seed}"
    )


def _difference(first: Statistics, second: Statistics, samples: int, seed: int) -> Difference:
    drawn = paired_bootstrap(first.rows, second.rows, first.measure, samples, seed)
    p = approximate_randomisation(first.rows, second.rows, first.measure, samples, seed)
    return Difference(*drawn, p)
