"""The difference of two training methods: its standard error over seeds and sentences, tests, and power.

Each variant v has n_v runs with seeds of their own, and all runs write texts for the same m sentences. To first order a
measure of a run is a mean over sentences of

    x[v, s, i] = mu[v] + a[v, s] + b[i] + c[v, i] + e[v, s, i]

with effects of the seed (a), of the sentence on both variants (b), on one variant (c) and on one run (e). The
difference of the means over seeds has the variance

    var(c[1] - c[2]) / m  +  sum over v of (var(a[v]) + var(e[v]) / m) / n[v].

The variance of a variant's measure over its seeds, divided by n[v], estimates its term of the sum. Drawing sentences
for all runs together gives the first term, and var(e[v]) / (n[v] m) a second time; the replicates of the runs around
their variant's mean tell how much that is, and it is subtracted. The sum is small-sample by nature: its degrees of
freedom are Satterthwaite's, and the intervals and tests are Student's.

Seeds are not paired, although both variants may have used the same numbers: a seed fixes the first weights and the
order of the data, but runs with different losses part within a few updates.
"""

from collections.abc import Sequence
from math import exp, lgamma, log, log1p, pi, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2s.errors import UserError, nearest
from s2s.metrics.bootstrap import LEAST, Measure, Numbers, draw_counts, holm, informative
from s2s.metrics.table import Better

LEAST_SEEDS = 5
"""The fewest seeds a variant for which a difference has a p-value; with fewer a study is exploratory."""

SAMPLES = 2000
"""Replicates for a standard error: its own sampling error is then 1.6 %."""

LEVEL, POWER = 0.95, 0.8

# Standard errors and differences below this share of the measure are rounding: equal runs in another order.
_ROUNDING = 1e-12

Kind = Literal["difference", "superiority", "non_inferiority", "equivalence"]


class Replicates(NamedTuple):
    """A variant's measure for each of its seeds, on the sentences as they are and on drawn ones."""

    observed: Numbers  # [seeds]
    drawn: Numbers  # [samples, seeds]
    sentences: int  # with a value


class Difference(NamedTuple):
    """A difference of two variants, in the measure's unit.

    Where fewer than ``LEAST`` sentences have a value, or the measure has none, everything but the estimate is None.
    With fewer than ``LEAST_SEEDS`` seeds on a side only ``p`` is None; one seed has no spread to enter the interval,
    which is then one over sentences alone.
    """

    estimate: float
    low: float | None
    high: float | None
    error: float | None  # standard error
    freedom: float | None  # degrees of freedom of the error
    p: float | None  # two-sided, of no difference
    detectable: float | None  # the smallest true difference that this study would have found in 80 % of cases
    seeds: tuple[int, int]
    sentences: int


class Hypothesis(NamedTuple):
    """A test that was declared before the runs.

    "difference" is two-sided and the default for an honest question; "superiority" is one-sided, for a direction that
    was declared; "non_inferiority" and "equivalence" need a margin in the measure's unit. A p near 0 always speaks for
    what the kind says.
    """

    name: str
    difference: Difference
    kind: Kind = "difference"
    margin: float = 0.0
    better: Better = "higher"


class Verdict(NamedTuple):
    """The p-value of a hypothesis and Holm's, adjusted for its family; None without enough seeds or sentences."""

    name: str
    p: float | None
    adjusted: float | None


def resample(sentences: int, samples: int = SAMPLES, seed: int = 0) -> NDArray[np.uint16]:
    """Return how often each sentence is drawn, [samples, sentences], for all comparisons on these sentences."""
    if sentences < 1 or samples < 2:
        raise UserError(f"a bootstrap needs a sentence and 2 samples, not {sentences} and {samples}")
    # Two bytes a count instead of eight: for 2,000 samples of 20,000 sentences 80 MB.
    drawn = [counts.astype(np.uint16) for counts in draw_counts(sentences, samples, np.random.default_rng(seed))]
    return np.concatenate(drawn)


def replicate(statistics: ArrayLike, measure: Measure, counts: NDArray[np.uint16]) -> Replicates:
    """Compute a variant's measure from statistics [seeds, sentences, sums], drawn as ``resample`` says.

    Raises ``UserError`` for statistics of another shape or number of sentences, and for sums that are not finite.
    """
    rows = np.asarray(statistics, dtype=np.float64)
    if rows.ndim != 3 or not rows.size:
        raise UserError(f"statistics are [seeds, sentences, sums], not of shape {rows.shape}")
    seeds, sentences, sums = rows.shape
    if counts.shape[1] != sentences:
        raise UserError(f"the draws are of {counts.shape[1]} sentences, and the statistics of {sentences}")
    if not np.isfinite(rows).all():
        seed, sentence = np.argwhere(~np.isfinite(rows).all(axis=2))[0] + 1
        raise UserError(f"sentence {sentence} of seed {seed} has a sum that is not finite")
    # One product for all seeds and sums. Rows of counts are widened in pieces that stay in the cache.
    flat = np.ascontiguousarray(rows.transpose(1, 0, 2).reshape(sentences, seeds * sums))
    totals = np.concatenate(
        [counts[start : start + 256].astype(np.float64) @ flat for start in range(0, len(counts), 256)]
    )
    drawn = measure(totals.reshape(len(counts), seeds, sums))
    return Replicates(measure(rows.sum(axis=1)), drawn, informative(rows))


def compare(
    first: ArrayLike,
    second: ArrayLike,
    measure: Measure,
    samples: int = SAMPLES,
    seed: int = 0,
    counts: NDArray[np.uint16] | None = None,
) -> Difference:
    """Compare two variants by the mean over seeds of a measure: measure(first) - measure(second).

    Both are statistics [seeds, sentences, sums] of the same sentences; the numbers of seeds may differ. ``counts`` of
    ``resample`` save drawing them again. A variant in several comparisons is best given to ``replicate`` once, and then
    to ``subtract``. Raises ``UserError`` as ``replicate`` does.
    """
    shapes = np.shape(first), np.shape(second)
    if len(shapes[0]) != 3 or shapes[0][1:] != shapes[1][1:]:
        raise UserError(f"statistics [seeds, sentences, sums] of the same sentences, not {shapes[0]} and {shapes[1]}")
    if counts is None:
        counts = resample(shapes[0][1], samples, seed)
    return subtract(replicate(first, measure, counts), replicate(second, measure, counts))


def subtract(first: Replicates, second: Replicates) -> Difference:
    """Return the difference of two variants whose sentences were drawn alike, with its error, interval and test."""
    sides = first, second
    seeds, sentences = (len(first.observed), len(second.observed)), min(first.sentences, second.sentences)
    means = [side.observed.mean() for side in sides]
    estimate, scale = float(means[0] - means[1]), max(float(np.abs(side.observed).max()) for side in sides)
    valid = np.isfinite(first.drawn).all(axis=1) & np.isfinite(second.drawn).all(axis=1)
    if sentences < LEAST or not np.isfinite(estimate) or valid.sum() < 2:
        return Difference(estimate, None, None, None, None, None, None, seeds, sentences)
    error, freedom = _error([Replicates(side.observed, side.drawn[valid], sentences) for side in sides])
    if error <= _ROUNDING * scale:
        estimate = estimate if abs(estimate) > _ROUNDING * scale else 0.0
        error, freedom = 0.0, sentences - 1.0
    reach = t_quantile((1 + LEVEL) / 2, freedom)
    p = min(1.0, 2 * _tail(abs(estimate), error, freedom)) if min(seeds) >= LEAST_SEEDS else None
    low, high = estimate - reach * error, estimate + reach * error
    detectable = (reach + t_quantile(POWER, freedom)) * error
    return Difference(estimate, low, high, error, freedom, p, detectable, seeds, sentences)


def _error(sides: Sequence[Replicates]) -> tuple[float, float]:
    """Return the standard error of a difference and its degrees of freedom.

    Source of the latter: Satterthwaite, "An Approximate Distribution of Estimates of Variance Components", 1946.
    """
    sentences, samples = sides[0].sentences, len(sides[0].drawn)
    # Resampling makes variances over sentences too small by (m - 1) / m.
    unbiased = sentences / (sentences - 1)
    # A variance over sentences is known no better than from m of them, and from this number of replicates.
    unsure = 1 / (sentences - 1) + 1 / (samples - 1)
    joint = unbiased * float(np.var(sides[0].drawn.mean(axis=1) - sides[1].drawn.mean(axis=1), ddof=1))
    over_seeds, twice, of_seeds, of_sentences = 0.0, 0.0, 0.0, joint**2 * unsure
    for observed, drawn, _ in sides:
        seeds = len(observed)
        if seeds > 1:
            spread = float(np.var(observed, ddof=1)) / seeds
            around = drawn - drawn.mean(axis=1, keepdims=True)
            # The deviations around a mean of n runs vary by (n - 1) / n of what the runs do; the mean over runs by 1/n.
            run = unbiased * float(np.var(around, axis=0, ddof=1).mean()) / (seeds - 1)
            of_seeds += spread**2 / (seeds - 1)
            of_sentences += run**2 / (seeds - 1) * unsure
            over_seeds, twice = over_seeds + spread, twice + run
    # A part that is estimated as 0 adds nothing to the variance, and so nothing to what is unsure of it.
    of_sentences *= joint > twice
    variance = over_seeds + max(0.0, joint - twice)
    # Parts that nearly cancel would leave less than a degree; two runs, the fewest with a spread, have one.
    return sqrt(variance), max(1.0, variance**2 / (of_seeds + of_sentences)) if variance else 1.0


def superiority(difference: Difference, better: Better = "higher") -> float | None:
    """Return the one-sided p that the first variant is not better; None where the difference has no p."""
    return non_inferiority(difference, 0.0, better)


def non_inferiority(difference: Difference, margin: float, better: Better = "higher") -> float | None:
    """Return the one-sided p that the first variant is worse by the margin or more; None without p."""
    if better not in ("higher", "lower"):
        raise UserError(f"a direction is higher or lower, not {better}")
    if margin < 0:
        raise UserError(f"a margin is at least 0, not {margin:g}")
    gain = difference.estimate if better == "higher" else -difference.estimate
    return _one_sided(difference, gain + margin)


def equivalence(difference: Difference, margin: float) -> float | None:
    """Return the p that the true difference is as large as the margin, in either direction; None without p.

    It is the larger p of two one-sided tests (TOST). Source: Schuirmann, "A Comparison of the Two One-Sided Tests
    Procedure and the Power Approach", 1987.
    """
    if margin <= 0:
        raise UserError(f"equivalence needs a margin above 0, not {margin:g}")
    return _one_sided(difference, margin - abs(difference.estimate))


def family(hypotheses: Sequence[Hypothesis]) -> list[Verdict]:
    """Test a declared family of hypotheses, with Holm's correction over all of them.

    A hypothesis without a p-value stays in the family, as one that finds nothing. Raises ``UserError`` for an unknown
    kind, and for a margin that its kind cannot have.
    """
    ps = [_test(hypothesis) for hypothesis in hypotheses]
    adjusted = holm([1.0 if p is None else p for p in ps])
    return [
        Verdict(hypothesis.name, p, None if p is None else corrected)
        for hypothesis, p, corrected in zip(hypotheses, ps, adjusted, strict=True)
    ]


def _test(hypothesis: Hypothesis) -> float | None:
    _, difference, kind, margin, better = hypothesis
    if kind in ("difference", "superiority") and margin:
        raise UserError(f"{hypothesis.name}: {kind} has no margin; non_inferiority and equivalence have one")
    match kind:
        case "difference":
            return difference.p
        case "superiority":
            return superiority(difference, better)
        case "non_inferiority":
            return non_inferiority(difference, margin, better)
        case "equivalence":
            return equivalence(difference, margin)
    raise UserError(f"{hypothesis.name}: a hypothesis is of no kind {kind}{nearest(kind, get_args(Kind))}")


def _one_sided(difference: Difference, effect: float) -> float | None:
    """Return the p of an effect above 0 that has the error of the difference."""
    if difference.p is None or difference.error is None or difference.freedom is None:
        return None
    return _tail(effect, difference.error, difference.freedom)


def _tail(effect: float, error: float, freedom: float) -> float:
    if error == 0:
        return 0.0 if effect > 0 else 1.0
    return t_tail(effect / error, freedom)


def t_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t with these degrees of freedom is above t.

    Half of the incomplete beta function, by its continued fraction. Source: Abramowitz and Stegun, "Handbook of
    Mathematical Functions", 1964, 26.5.8 and 26.7.1.
    """
    # Both shares are computed, since 1 minus one of them would lose the other's digits.
    outside, inside = freedom / (freedom + t * t), t * t / (freedom + t * t)
    if inside == 0:
        return 0.5
    a, b = freedom / 2, 0.5
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) - a * log1p(t * t / freedom) + b * log(inside))
    # The fraction converges quickly on one side of the distribution's middle; the other side is 1 minus it.
    if outside < (a + 1) / (a + b + 2):
        beyond = front * _fraction(a, b, outside) / a
    else:
        beyond = 1 - front * _fraction(b, a, inside) / b
    return beyond / 2 if t > 0 else 1 - beyond / 2


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by the method of Lentz."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for k in range(1, 10_000):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def t_quantile(probability: float, freedom: float) -> float:
    """Return the t below which Student's t with these degrees of freedom is with a probability from 0.5 to 1."""
    # From the normal quantile, which is below, Newton's steps approach without passing: the function is concave here.
    t = NormalDist().inv_cdf(probability)
    constant = lgamma((freedom + 1) / 2) - lgamma(freedom / 2) - log(freedom * pi) / 2
    for _ in range(100):
        density = exp(constant - (freedom + 1) / 2 * log1p(t * t / freedom))
        step = (t_tail(t, freedom) - (1 - probability)) / density
        t += step
        if abs(step) <= 1e-12 * max(t, 1.0):
            break
    return t
