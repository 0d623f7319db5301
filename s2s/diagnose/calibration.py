"""Do confidences mean what they say, after gold prefixes and after the model's own?

Source: Wang et al., "On the Inference Calibration of Neural Machine Translation", 2020, whose free-running labels come
from TER's alignment; here it is Levenshtein's. With one reference many right tokens count as wrong, so only
differences between models on the same data mean something, and only between sides of similar size: the error is biased
upwards on small ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.diagnose.traces import Marks, Trace
from s2s.metrics.bootstrap import Numbers, mean

BINS = 20


class Judged(NamedTuple):
    """The tokens of one sentence: the model's confidence in each, in [0, 1], and whether it was right."""

    confidences: Numbers
    correct: Marks


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:  # noqa: ARG001
    """Return how much worse calibrated the model is after its own prefixes than after gold ones."""
    edges = equal_width()

    def sums(run: Measurements) -> Numbers:
        return np.concatenate([statistics(side, edges) for side in judged(run).values()], axis=1)

    titles = [f"{kind} after own prefixes minus after gold" for kind in ("calibration error", "overconfidence")]
    return [
        Quantity("calibration_gap", titles[0], "share", "lower", sums, error_growth),
        Quantity("overconfidence_gap", titles[1], "share", "lower", sums, confidence_growth),
    ]


def error_growth(sums: Numbers) -> Numbers:
    """Return how much larger the calibration error is after own prefixes, from the sums of both sides."""
    # Both sides are in one row of sums, so a bootstrap draws the same sentences for both.
    forced, free = np.split(sums, 2, axis=-1)
    return expected_calibration_error(free) - expected_calibration_error(forced)


def confidence_growth(sums: Numbers) -> Numbers:
    """Return how much more overconfident the model is after own prefixes, from the sums of both sides."""
    forced, free = np.split(sums, 2, axis=-1)
    return overconfidence(free) - overconfidence(forced)


def details(run: Measurements) -> Plain:
    """Return for each side accuracy by confidence, and the error over bins of equal width and of equal mass."""
    return {side: _diagram(tokens) for side, tokens in judged(run).items()}


def _diagram(tokens: Sequence[Judged]) -> Plain:
    wide, mass = (statistics(tokens, edges).sum(axis=0) for edges in (equal_width(), equal_mass(tokens)))
    accuracy, confidence, count = reliability(wide)
    return {
        "accuracy": accuracy,
        "confidence": confidence,
        "tokens": count,
        "error": expected_calibration_error(wide),
        "error_equal_mass": expected_calibration_error(mass),
        "overconfidence": overconfidence(wide),
    }


def judged(run: Measurements) -> dict[str, list[Judged]]:
    """Judge a run's tokens after gold prefixes and after its own."""
    return {"forced": judge_forced(run.forced), "free": judge_free(run.free, run.correct)}


def judge_forced(traces: Sequence[Trace]) -> list[Judged]:
    """Judge the likeliest token after each gold prefix: it is right where it is gold."""
    return [Judged(np.exp(gold.best_log_probs), gold.best == gold.tokens) for gold in traces]


def judge_free(traces: Sequence[Trace], correct: Sequence[Marks]) -> list[Judged]:
    """Judge the tokens of greedy texts: they are right where they are aligned with an equal one of gold."""
    return [Judged(np.exp(text.log_probs), marks) for text, marks in zip(traces, correct, strict=True)]


def equal_width(bins: int = BINS) -> Numbers:
    """Return the inner edges of bins of [0, 1] that are equally wide."""
    return np.linspace(0, 1, bins + 1)[1:-1]


def equal_mass(judged: Sequence[Judged], bins: int = BINS) -> Numbers:
    """Return the inner edges of bins that hold equally many of these tokens; ties may leave some empty."""
    return np.quantile(np.concatenate([sentence.confidences for sentence in judged]), np.arange(1, bins) / bins)


def statistics(judged: Sequence[Judged], edges: Numbers) -> Numbers:
    """Sum each sentence, [N, bins * 3], for the measures of this module: (correct, confidence, tokens) of each bin.

    A bin holds its upper edge. With the same edges for two models, ``compare`` tests their difference.
    """
    sums = np.zeros((len(judged), len(edges) + 1, 3))
    for row, (confidences, correct) in zip(sums, judged, strict=True):
        bins = np.searchsorted(edges, confidences, side="left")
        np.add.at(row, bins, np.stack([correct, confidences, np.ones(len(bins))], axis=1))
    return sums.reshape(len(judged), -1)


def expected_calibration_error(sums: Numbers) -> Numbers:
    """Return sum_b |sum_i (correct - confidence)| / N over bins b, in [0, 1]; NaN without tokens."""
    bins = sums.reshape(*sums.shape[:-1], -1, 3)
    distances = np.abs(bins[..., 0] - bins[..., 1]).sum(axis=-1)
    return mean(np.stack([distances, bins[..., 2].sum(axis=-1)], axis=-1))


def overconfidence(sums: Numbers) -> Numbers:
    """Return mean confidence minus accuracy, in [-1, 1]; NaN without tokens."""
    total = sums.reshape(*sums.shape[:-1], -1, 3).sum(axis=-2)
    return mean(np.stack([total[..., 1] - total[..., 0], total[..., 2]], axis=-1))


def reliability(sums: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return accuracy, mean confidence and tokens [..., bins], for a diagram; NaN for empty bins."""
    bins = sums.reshape(*sums.shape[:-1], -1, 3)
    return mean(bins[..., [0, 2]]), mean(bins[..., [1, 2]]), bins[..., 2]
