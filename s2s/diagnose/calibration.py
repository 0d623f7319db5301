"""Do confidences mean what they say, behind gold prefixes and behind the model's own?

Source: Wang et al., "On the Inference Calibration of Neural Machine Translation", 2020, whose free-running labels come
from TER's alignment; here it is Levenshtein's. With one reference many right tokens count as wrong, so only
differences between models on the same data mean something, and only between arms of like size: the error is biased
upwards in small ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s2s.diagnose.alignment import correct
from s2s.diagnose.traces import Trace
from s2s.metrics.bootstrap import Numbers, mean

BINS = 20


class Judged(NamedTuple):
    """The tokens of one sentence: the model's confidence in each, in [0, 1], and whether it was right."""

    confidences: Numbers
    correct: NDArray[np.bool_]


def judge_forced(traces: Sequence[Trace]) -> list[Judged]:
    """The likeliest token behind each gold prefix: right where it is gold."""
    return [Judged(np.exp(one.best_log_probs), one.best == one.tokens) for one in traces]


def judge_free(traces: Sequence[Trace], gold: Sequence[Trace]) -> list[Judged]:
    """The tokens of free texts: right where they are aligned with their like in the gold target."""
    return [
        Judged(np.exp(own.log_probs), correct(own.tokens.tolist(), reference.tokens.tolist()))
        for own, reference in zip(traces, gold, strict=True)
    ]


def equal_width(bins: int = BINS) -> Numbers:
    """The inner edges of bins of [0, 1] that are equally wide."""
    return np.linspace(0, 1, bins + 1)[1:-1]


def equal_mass(judged: Sequence[Judged], bins: int = BINS) -> Numbers:
    """The inner edges of bins that hold equally many of these tokens; ties may leave some empty."""
    return np.quantile(np.concatenate([one.confidences for one in judged]), np.arange(1, bins) / bins)


def statistics(judged: Sequence[Judged], edges: Numbers) -> Numbers:
    """Sums [N, F] of each sentence for the measures of this module: (correct, confidence, tokens) of each bin.

    A bin holds its upper edge. With the same edges for two arms, ``paired_bootstrap`` tests their difference.
    """
    sums = np.zeros((len(judged), len(edges) + 1, 3))
    for row, one in zip(sums, judged, strict=True):
        places = np.searchsorted(edges, one.confidences, side="left")
        np.add.at(row, places, np.stack([one.correct, one.confidences, np.ones(len(places))], axis=1))
    return sums.reshape(len(judged), -1)


def expected_calibration_error(sums: Numbers) -> Numbers:
    """sum_b |sum_i (correct - confidence)| / N over bins b, in [0, 1]; NaN without tokens."""
    each = sums.reshape(*sums.shape[:-1], -1, 3)
    distances = np.abs(each[..., 0] - each[..., 1]).sum(axis=-1)
    return mean(np.stack([distances, each[..., 2].sum(axis=-1)], axis=-1))


def overconfidence(sums: Numbers) -> Numbers:
    """Mean confidence minus accuracy, in [-1, 1]; NaN without tokens."""
    total = sums.reshape(*sums.shape[:-1], -1, 3).sum(axis=-2)
    return mean(np.stack([total[..., 1] - total[..., 0], total[..., 2]], axis=-1))


def reliability(sums: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Accuracy, mean confidence and tokens [..., bins], for a diagram; NaN for empty bins."""
    each = sums.reshape(*sums.shape[:-1], -1, 3)
    return mean(each[..., [0, 2]]), mean(each[..., [1, 2]]), each[..., 2]
