"""Studies drawn from a known model of seeds and sentences, and how often their tests and intervals are right.

``python tests/helpers/simulated_studies.py`` prints the whole grid, some minutes on one core.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from s2s.metrics.bootstrap import mean
from s2s.study.statistics import Difference, compare, resample

SENTENCES, SAMPLES = 150, 300
SHARES = {"common": (1.0, 0.3, 0.3), "variant": (0.3, 1.0, 0.3), "run": (0.3, 0.3, 1.0)}
"""Deviations of the effects of sentences: on all runs, on those of one variant, on one run."""


class Design(NamedTuple):
    """A kind of study; ``spread`` is the seeds' deviation in standard errors over sentences of one run's score."""

    measure: str  # mean, ratio or bleu
    seeds: int
    spread: float
    dominant: str
    effect: float = 0.0


class Rates(NamedTuple):
    """Shares of studies: p < 0.05, the interval holds the truth, and p < 0.05 where there is exactly that effect."""

    studies: int
    significant: float
    covered: float


def effects(design: Design, generator: np.random.Generator, sentences: int) -> np.ndarray:
    """Values [2, seeds, sentences] of the model, around 0 and ``effect``."""
    common, variant, run = SHARES[design.dominant]
    seed = design.spread * np.sqrt((common**2 + variant**2 + run**2) / SENTENCES)
    values = (
        seed * generator.normal(size=(2, design.seeds, 1))
        + common * generator.normal(size=sentences)
        + variant * generator.normal(size=(2, 1, sentences))
        + run * generator.normal(size=(2, design.seeds, sentences))
    )
    values[0] += design.effect
    return values


def draw(design: Design, generator: np.random.Generator, sentences: int = SENTENCES) -> np.ndarray:
    """Sums [2, seeds, sentences, F] of one study."""
    if design.measure == "bleu":
        return _translations(design, generator, sentences)
    values = effects(design, generator, sentences)
    if design.measure == "mean":
        return np.stack([values, np.ones_like(values)], axis=-1)
    lengths = 3 + generator.poisson(10, size=sentences) + generator.poisson(3, size=values.shape)
    return np.stack([values * lengths, lengths], axis=-1)


def _translations(design: Design, generator: np.random.Generator, sentences: int) -> np.ndarray:
    """Matched and all n-grams of orders 1 to 4, and the lengths of text and reference, as BLEU sums them."""
    # A word is right with a probability that the effects move on the logistic scale; a run of words, if all are.
    right = 1 / (1 + np.exp(-(0.8 + 0.7 * effects(design, generator, sentences))))
    references = 5 + generator.poisson(8, size=sentences)
    lengths = np.maximum(4, references + generator.integers(-2, 3, size=right.shape))
    totals = np.stack([lengths - order for order in range(4)], axis=-1)
    matches = generator.binomial(totals, right[..., None] ** np.arange(1, 5))
    return np.concatenate([matches, totals, np.stack([lengths, references + 0 * lengths], axis=-1)], axis=-1)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU in 0..100 without smoothing, from the sums of ``_translations``."""
    precision = np.log(sums[..., :4] / sums[..., 4:8]).mean(axis=-1)
    return 100 * np.exp(precision + np.minimum(0, 1 - sums[..., 9] / sums[..., 8]))


MEASURES = {"mean": mean, "ratio": mean, "bleu": bleu}


def truth(design: Design) -> float:
    """The true difference: for BLEU that of one enormous study."""
    if design.measure != "bleu" or not design.effect:
        return design.effect
    sums = draw(design._replace(seeds=20), np.random.default_rng(1), 50_000).sum(axis=2)
    return float(np.subtract(*bleu(sums).mean(axis=1)))


def studies(design: Design, number: int, seed: int) -> Iterator[Difference]:
    """Differences of simulated studies, all with the same draws of sentences."""
    # Other studies with an effect than without: of a mean they would be the same ones, moved.
    seed += 1000 * bool(design.effect)
    generator, counts = np.random.default_rng(seed), resample(SENTENCES, SAMPLES, seed)
    for _ in range(number):
        first, second = draw(design, generator)
        yield compare(first, second, MEASURES[design.measure], counts=counts)


def rates(design, number=1000, seed=0) -> Rates:
    """How often studies of a design find a difference, and how often their interval holds the true one."""
    expected = truth(design)
    found = [(study.p < 0.05, study.low <= expected <= study.high) for study in studies(design, number, seed)]
    return Rates(number, *(float(share) for share in np.mean(found, axis=0)))


def grid() -> Iterator[Design]:
    """All designs: measures, seeds, spreads over seeds, dominant effects, without an effect and with one."""
    for measure, dominant in product(("mean", "ratio", "bleu"), SHARES):
        for seeds, spread, effect in product((5, 8), (0.0, 1.0, 2.0), (0.0, 0.3)):
            yield Design(measure, seeds, spread, dominant, effect)


if __name__ == "__main__":
    print("measure  dominant  seeds  spread  effect  p < 0.05  covered")
    for chosen in grid():
        _, significant, covered = rates(chosen)
        print(
            f"{chosen.measure:7}  {chosen.dominant:8}  {chosen.seeds:5}  {chosen.spread:6.0f}  {chosen.effect:6.1f}"
            f"  {significant:8.3f}  {covered:7.3f}",
            flush=True,
        )
