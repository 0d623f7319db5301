"""How sure a difference is: the bootstrap and randomisation over sentences, over seeds too, and Holm's correction.

A measure is given by its sufficient statistics: a row of sums a sentence, [N, F], and a function of their sum [..., F]
to the measure [...]. So one test serves means, ratios, slopes, calibration errors and corpus metrics alike. Sentences
are drawn, never tokens, and what is drawn is a function of the seed and the number of sentences.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2s.errors import UserError
from s2s.metrics.significance import LEAST, Comparison

Numbers = NDArray[np.float64]
Measure = Callable[[Numbers], Numbers]
"""Sums [..., F] to a measure [...]."""

# Draws held at a time: 8 MiB of numbers of sentences and as much of counts, whatever the number of replicates.
_HELD = 1 << 20


class Interval(NamedTuple):
    """An estimate and its interval, in the measure's unit."""

    estimate: float
    low: float
    high: float


def mean(sums: Numbers) -> Numbers:
    """The measure of statistics (value, weight): values over weights, NaN where there is no weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Numbers = sums[..., 0] / sums[..., 1]
    return ratio


def weighted(values: ArrayLike) -> Numbers:
    """Statistics [N, 2] for ``mean`` of one value a sentence; a value of NaN is no value."""
    each = np.asarray(values, dtype=np.float64)
    return np.stack([np.nan_to_num(each), ~np.isnan(each)], axis=-1)


def informative(statistics: ArrayLike) -> int:
    """Return how many sentences of statistics [..., N, F] have a value: a row that is not all 0 in some of the runs."""
    rows = np.asarray(statistics) != 0
    return int(rows.any(axis=-1).reshape(-1, rows.shape[-2]).any(axis=0).sum())


def enough(*statistics: ArrayLike) -> bool:
    """Return whether there are sentences enough, in all of the statistics, for an interval and a p-value."""
    return min(informative(each) for each in statistics) >= LEAST


def percentile_interval(replicates: ArrayLike, estimate: float, level: float = 0.95) -> Interval:
    """The central ``level`` of the replicates that are finite; NaN where none is."""
    found = np.asarray(replicates, dtype=np.float64)
    found = found[np.isfinite(found)]
    if not found.size:
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def bootstrap(statistics: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Interval:
    """A measure and its 95% interval, from statistics [N, F] of each sentence, by drawing sentences.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentiles).
    """
    rows = _rows(statistics)
    drawn = [measure(counts @ rows) for counts in _draws(len(rows), samples, np.random.default_rng(seed))]
    return percentile_interval(np.concatenate(drawn), float(measure(rows.sum(axis=0))))


def paired_bootstrap(a: ArrayLike, b: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Comparison:
    """measure(a) - measure(b), for statistics [N, F] of two systems on the same sentences, drawn together.

    The interval holds the central 95% of the resampled differences; p = (1 + #{|d* - d| >= |d|}) / (samples + 1) as in
    ``s2s.metrics.paired_bootstrap``. Raises ``UserError`` for statistics that do not pair.
    """
    first, second = _pair(a, b)
    observed = float(measure(first.sum(axis=0)) - measure(second.sum(axis=0)))
    drawn = [
        measure(counts @ first) - measure(counts @ second)
        for counts in _draws(len(first), samples, np.random.default_rng(seed))
    ]
    return _comparison(observed, np.concatenate(drawn))


def approximate_randomisation(
    a: ArrayLike, b: ArrayLike, measure: Measure, trials: int = 10_000, seed: int = 0
) -> float:
    """The two-sided p-value of measure(a) - measure(b) when the two systems' sentences change sides at random.

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
        found = np.abs(measure((total + moved) / 2) - measure((total - moved) / 2))
        # Ties count as extreme even where rounding put them just below, and so does a trial without a value.
        extreme += int((~(found < observed * (1 - 1e-9))).sum())
    return (1 + extreme) / (trials + 1)


def hierarchical_bootstrap(
    a: ArrayLike, b: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """The difference of two methods' measures, averaged over training seeds, from statistics [seeds, N, F].

    Each replicate draws seeds for either method and, once for all of them, sentences: all models have read the same
    ones. The methods may have different numbers of seeds. p is as in ``paired_bootstrap``.
    Source: Owen, "The Pigeonhole Bootstrap", 2007 (both factors of a crossed table are drawn).
    Raises ``UserError`` for statistics that are not of the same sentences.
    """
    first, second = (np.asarray(each, dtype=np.float64) for each in (a, b))
    if first.ndim != 3 or second.ndim != 3 or first.shape[1:] != second.shape[1:]:
        raise UserError(f"statistics [seeds, sentences, sums] of two methods, not {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UserError("a sentence has a sum that is not finite")
    generator = np.random.default_rng(seed)
    drawn = [
        _over_seeds(first, counts, measure, generator) - _over_seeds(second, counts, measure, generator)
        for counts in _draws(first.shape[1], samples, generator)
    ]
    observed = float(measure(first.sum(axis=1)).mean() - measure(second.sum(axis=1)).mean())
    return _comparison(observed, np.concatenate(drawn))


def bootstrap_over_seeds(statistics: ArrayLike, measure: Measure, samples: int = 10_000, seed: int = 0) -> Interval:
    """The mean measure over training seeds and its 95% interval, from statistics [seeds, N, F].

    Seeds and sentences are drawn as in ``hierarchical_bootstrap``; of one seed it is ``bootstrap``.
    """
    each = np.asarray(statistics, dtype=np.float64)
    if each.ndim != 3:
        raise UserError(f"statistics are [seeds, sentences, sums], not of shape {each.shape}")
    if len(each) == 1:
        return bootstrap(each[0], measure, samples, seed)
    generator = np.random.default_rng(seed)
    drawn = [_over_seeds(each, counts, measure, generator) for counts in _draws(each.shape[1], samples, generator)]
    return percentile_interval(np.concatenate(drawn), float(measure(each.sum(axis=1)).mean()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the family's error rate is at most what they are compared with.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _over_seeds(statistics: Numbers, counts: Numbers, measure: Measure, generator: np.random.Generator) -> Numbers:
    """The mean measure [samples] over drawn seeds, each on sentences taken so often, [samples, N]."""
    drawn = generator.integers(len(statistics), size=(len(counts), len(statistics)))
    measured: Numbers = np.stack([measure(counts @ each) for each in statistics], axis=1)
    means: Numbers = np.take_along_axis(measured, drawn, axis=1).mean(axis=1)
    return means


def _comparison(observed: float, replicates: Numbers) -> Comparison:
    _, low, high = percentile_interval(replicates, observed)
    if not np.isfinite(observed):
        return Comparison(observed, low, high, np.nan)
    finite = replicates[np.isfinite(replicates)]
    extreme = int((np.abs(finite - observed) >= abs(observed) * (1 - 1e-9)).sum())
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


def _draws(sentences: int, samples: int, generator: np.random.Generator) -> Iterator[Numbers]:
    """How often each sentence is drawn, [some samples, N] at a time."""
    for size in _chunks(samples, sentences):
        chosen = generator.integers(sentences, size=(size, sentences)) + np.arange(size)[:, None] * sentences
        yield np.bincount(chosen.ravel(), minlength=size * sentences).reshape(size, sentences).astype(np.float64)


def _chunks(samples: int, sentences: int) -> Iterator[int]:
    rows = max(1, _HELD // max(1, sentences))
    for start in range(0, samples, rows):
        yield min(rows, samples - start)
