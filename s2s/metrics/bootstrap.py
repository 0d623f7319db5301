"""Significance of a difference: bootstrap and randomisation over sentences, also over seeds, and Holm's correction.

A measure is given by sufficient statistics: a row of sums for each sentence, [N, F], and a function from their total
[..., F] to the measure [...]. One test then serves means, ratios, slopes, calibration errors and corpus metrics. The
unit of resampling is the sentence, never the token, and the draws depend on the seed and the number of sentences alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2s.errors import UserError

Numbers = NDArray[np.float64]
Measure = Callable[[Numbers], Numbers]
"""Sums [..., F] to a measure [...]."""

LEAST = 10
"""The fewest sentences for which the commands show an interval or a p-value.

Exchanging n sentences of two systems at random cannot give a p-value below 2^(1 - n): 0.06 for 5, 0.002 for 10, which
leaves room to correct for 25 comparisons. And resampling makes the variance too small by (n - 1) / n, so a 95 %
interval of a mean holds it in some 84 % of cases for 5 sentences, in 90 % for 10.
"""

# Drawn sentences in memory at a time: 8 MiB of their numbers and as much of counts, whatever the number of replicates.
_MOST_DRAWS = 1 << 20

# Tied differences count as extreme even where rounding put them just below the observed one.
_TIE = 1 - 1e-9


class Interval(NamedTuple):
    """An estimate and its interval, in the measure's unit."""

    estimate: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A difference of two systems, its 95 % interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def too_few(sentences: int) -> str | None:
    """Return a line that says why there is no interval and no p-value; None for enough sentences."""
    if sentences >= LEAST:
        return None
    return f"{sentences} sentence{'s are' if sentences != 1 else ' is'} too few for an interval (at least {LEAST})"


def mean(sums: Numbers) -> Numbers:
    """Return sums of values over sums of weights, from statistics (value, weight); NaN where there is no weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Numbers = sums[..., 0] / sums[..., 1]
    return ratio


def weighted(values: ArrayLike) -> Numbers:
    """Return statistics [N, 2] for ``mean`` from one value for each sentence; NaN is no value and has no weight."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.stack([np.nan_to_num(numbers), ~np.isnan(numbers)], axis=-1)


def informative(statistics: ArrayLike) -> int:
    """Return the number of sentences of statistics [..., N, F] with a value: a row that is not all 0 in every run."""
    rows = np.asarray(statistics) != 0
    return int(rows.any(axis=-1).reshape(-1, rows.shape[-2]).any(axis=0).sum())


def enough(*statistics: ArrayLike) -> bool:
    """Return whether all of the statistics have enough sentences for an interval and a p-value."""
    return min(map(informative, statistics)) >= LEAST


def percentile_interval(replicates: ArrayLike, estimate: float, level: float = 0.95) -> Interval:
    """Return the central ``level`` of the finite replicates; NaN where none is finite."""
    finite = np.asarray(replicates, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def bootstrap(statistics: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Interval:
    """Return a measure and its 95 % interval, from statistics [N, F] of the sentences.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentiles).
    """
    rows = _rows(statistics)
    drawn = [measure(counts @ rows) for counts in draw_counts(len(rows), samples, np.random.default_rng(seed))]
    return percentile_interval(np.concatenate(drawn), float(measure(rows.sum(axis=0))))


def paired_bootstrap(
    a: Sequence[float] | Numbers, b: Sequence[float] | Numbers, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare the mean scores of two systems on the same sentences: mean(a) - mean(b).

    Interval and p-value are those of ``compare``. Below some thirty sentences p comes out too small; below ``LEAST``
    the commands show neither. Raises ``UserError`` for scores that do not pair, are not finite or are fewer than 2,
    and for no samples.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise UserError(f"two lists of scores of the same sentences, not of shapes {first.shape} and {second.shape}")
    if first.size < 2:
        raise UserError(f"a comparison needs at least 2 sentences, not {first.size}")
    differences = first - second
    finite = np.isfinite(differences)
    if not finite.all():
        raise UserError(f"sentence {int(np.argmin(finite)) + 1} has a score that is not finite")
    if samples < 1:
        raise UserError(f"the bootstrap needs at least 1 sample, not {samples}")
    return compare(weighted(differences), weighted(np.zeros(first.size)), mean, samples, seed)


def compare(a: ArrayLike, b: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two systems by a measure of statistics [N, F] of the same sentences: measure(a) - measure(b).

    Each replicate d* draws the same sentences for both. The interval holds the central 95 % of the d*;
    p = (1 + #{|d* - d| >= |d|}) / (samples + 1). Raises ``UserError`` for statistics that do not pair.
    Sources: Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004 (the resampling);
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4 (the null moved to mean 0).
    """
    first, second = _pair(a, b)
    observed = float(measure(first.sum(axis=0)) - measure(second.sum(axis=0)))
    drawn = [
        measure(counts @ first) - measure(counts @ second)
        for counts in draw_counts(len(first), samples, np.random.default_rng(seed))
    ]
    return _comparison(observed, np.concatenate(drawn))


def approximate_randomisation(
    a: ArrayLike, b: ArrayLike, measure: Measure, trials: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p-value of measure(a) - measure(b) when sentences are exchanged between systems at random.

    p = (1 + #{|d'| >= |d|}) / (trials + 1). Source: Riezler and Maxwell, "On Some Pitfalls in Automatic Evaluation
    and Significance Testing for MT", 2005. Raises ``UserError`` for statistics that do not pair.
    """
    first, second = _pair(a, b)
    total, extra = first.sum(axis=0) + second.sum(axis=0), first - second
    observed = abs(float(measure(first.sum(axis=0)) - measure(second.sum(axis=0))))
    if not np.isfinite(observed):
        return np.nan
    generator, extreme = np.random.default_rng(seed), 0
    for size in _chunks(trials, len(first)):
        signs = np.where(generator.random((size, len(first))) < 0.5, -1.0, 1.0)
        moved = signs @ extra
        differences = np.abs(measure((total + moved) / 2) - measure((total - moved) / 2))
        extreme += int((~(differences < observed * _TIE)).sum())  # not ">=": a trial without a value (NaN) counts too
    return (1 + extreme) / (trials + 1)


def hierarchical_bootstrap(
    a: ArrayLike, b: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two methods by their measures averaged over training seeds, from statistics [seeds, N, F].

    Each replicate draws seeds for either method, and sentences once for all of them, since all models read the same
    ones. The methods may have different numbers of seeds. p is as in ``compare``.
    Source: Owen, "The Pigeonhole Bootstrap", 2007 (both factors of a crossed table are drawn).
    Raises ``UserError`` for statistics that are not of the same sentences.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 3 or second.ndim != 3 or first.shape[1:] != second.shape[1:]:
        raise UserError(f"statistics [seeds, sentences, sums] of two methods, not {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UserError("a sentence has a sum that is not finite")
    generator = np.random.default_rng(seed)
    drawn = [
        _over_seeds(first, counts, measure, generator) - _over_seeds(second, counts, measure, generator)
        for counts in draw_counts(first.shape[1], samples, generator)
    ]
    observed = float(measure(first.sum(axis=1)).mean() - measure(second.sum(axis=1)).mean())
    return _comparison(observed, np.concatenate(drawn))


def bootstrap_over_seeds(statistics: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Interval:
    """Return the mean measure over training seeds and its 95 % interval, from statistics [seeds, N, F].

    Seeds and sentences are drawn as in ``hierarchical_bootstrap``; with one seed this is ``bootstrap``.
    """
    numbers = np.asarray(statistics, dtype=np.float64)
    if numbers.ndim != 3:
        raise UserError(f"statistics are [seeds, sentences, sums], not of shape {numbers.shape}")
    if len(numbers) == 1:
        return bootstrap(numbers[0], measure, samples, seed)
    generator = np.random.default_rng(seed)
    draws = draw_counts(numbers.shape[1], samples, generator)
    drawn = [_over_seeds(numbers, counts, measure, generator) for counts in draws]
    return percentile_interval(np.concatenate(drawn), float(measure(numbers.sum(axis=1)).mean()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the given order; compared with alpha they keep the family's error below it.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _over_seeds(statistics: Numbers, counts: Numbers, measure: Measure, generator: np.random.Generator) -> Numbers:
    """Return the mean measure [samples] over drawn seeds, on sentences drawn ``counts`` [samples, N] times."""
    drawn = generator.integers(len(statistics), size=(len(counts), len(statistics)))
    measured: Numbers = np.stack([measure(counts @ rows) for rows in statistics], axis=1)
    means: Numbers = np.take_along_axis(measured, drawn, axis=1).mean(axis=1)
    return means


def _comparison(observed: float, replicates: Numbers) -> Comparison:
    _, low, high = percentile_interval(replicates, observed)
    if not np.isfinite(observed):
        return Comparison(observed, low, high, np.nan)
    finite = replicates[np.isfinite(replicates)]
    extreme = int((np.abs(finite - observed) >= abs(observed) * _TIE).sum())
    return Comparison(observed, low, high, (1 + extreme) / (finite.size + 1))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Numbers, Numbers]:
    first, second = _rows(a), _rows(b)
    if first.shape != second.shape:
        raise UserError(f"statistics of the same sentences, not of shapes {first.shape} and {second.shape}")
    return first, second


def _rows(statistics: ArrayLike) -> Numbers:
    rows = np.asarray(statistics, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise UserError(f"statistics are [sentences, sums], not of shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise UserError(f"sentence {int(np.argmin(np.isfinite(rows).all(axis=1))) + 1} has a sum that is not finite")
    return rows


def draw_counts(sentences: int, samples: int, generator: np.random.Generator) -> Iterator[Numbers]:
    """Yield how often each sentence is drawn, [n, N] for the n samples of a chunk."""
    for size in _chunks(samples, sentences):
        yield _counts(generator.integers(sentences, size=(size, sentences)))


def _counts(chosen: NDArray[np.int64]) -> Numbers:
    """Return how often each of N sentences is among the N of each row, [n, N]."""
    shape = chosen.shape
    chosen += np.arange(shape[0])[:, None] * shape[1]
    counts = np.bincount(chosen.ravel(), minlength=chosen.size)
    del chosen  # no longer needed while the counts, as large again, are converted
    return counts.reshape(shape).astype(np.float64)


def _chunks(samples: int, sentences: int) -> Iterator[int]:
    rows = max(1, _MOST_DRAWS // max(1, sentences))
    for start in range(0, samples, rows):
        yield min(rows, samples - start)
