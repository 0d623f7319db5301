"""Calibration errors against loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.diagnose import calibration
from s2s.diagnose.calibration import (
    Judged,
    equal_mass,
    equal_width,
    expected_calibration_error,
    judge_forced,
    judge_free,
    overconfidence,
    reliability,
)
from s2s.diagnose.gap import aligned
from s2s.diagnose.traces import Trace
from s2s.metrics.bootstrap import compare


def random_judged(seed, sentences=12):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 9, size=sentences)
    return [Judged(generator.random(size), generator.random(size) < 0.4) for size in sizes]


def naive_error(judged, edges):
    """Bins as (edge, next edge], one token after the other."""
    bounds = [-math.inf, *edges, math.inf]
    tokens = [pair for sentence in judged for pair in zip(sentence.confidences, sentence.correct, strict=True)]
    error = 0.0
    for low, high in pairwise(bounds):
        inside = [(confidence, right) for confidence, right in tokens if low < confidence <= high]
        error += abs(sum(right - confidence for confidence, right in inside))
    return error / len(tokens)


@given(st.integers(0, 99), st.integers(1, 8))
@settings(deadline=None, max_examples=20)
def test_the_calibration_error_is_a_loop_over_bins(seed, bins):
    judged = random_judged(seed)
    for edges in (equal_width(bins), equal_mass(judged, bins)):
        sums = calibration.statistics(judged, edges).sum(axis=0)
        assert float(expected_calibration_error(sums)) == pytest.approx(naive_error(judged, edges))
        tokens = [(c, r) for sentence in judged for c, r in zip(sentence.confidences, sentence.correct, strict=True)]
        wanted = np.mean([confidence - right for confidence, right in tokens])
        assert float(overconfidence(sums)) == pytest.approx(wanted)
        accuracy, confidence, size = reliability(sums)
        assert np.nansum((accuracy - confidence) * size) == pytest.approx(-wanted * len(tokens))
        if bins > 1:
            assert len(size) == bins


def test_bins_of_equal_mass_hold_equally_many():
    judged = random_judged(1, 200)
    *_, size = reliability(calibration.statistics(judged, equal_mass(judged, 5)).sum(axis=0))
    assert max(size) - min(size) <= 2


def test_arms_on_the_same_bins_are_compared_sentence_by_sentence():
    first, second = random_judged(2, 80), random_judged(3, 80)
    a, b = (calibration.statistics(judged, equal_width()) for judged in (first, second))
    comparison = compare(a, b, expected_calibration_error, samples=200)
    assert comparison.difference == pytest.approx(
        naive_error(first, equal_width()) - naive_error(second, equal_width())
    )
    assert comparison.low < comparison.difference < comparison.high or comparison.p > 0.05


def test_tokens_are_judged_after_gold_and_after_own_prefixes():
    logs = np.log([0.5, 0.25, 0.2])
    gold = Trace(np.array([7, 8, 3]), logs, logs, np.array([7, 9, 3]), np.log([0.5, 0.7, 0.2]))
    text = Trace(np.array([8, 3]), logs[:2], logs[:2], np.array([8, 3]), logs[:2])
    [forced], [free] = judge_forced([gold]), judge_free([text], aligned([text], [gold])[0])
    assert forced.confidences.tolist() == pytest.approx([0.5, 0.7, 0.2])
    assert forced.correct.tolist() == [True, False, True]
    assert free.confidences.tolist() == pytest.approx([0.5, 0.25])
    assert free.correct.tolist() == [True, True]  # the token left out shifts nothing
