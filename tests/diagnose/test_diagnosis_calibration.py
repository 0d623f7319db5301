"""Calibration errors, and differences of sets of texts, against loops and exact values."""

import math
from collections import Counter
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
from s2s.diagnose.mismatch import count, divergence, jensen_shannon, mismatch
from s2s.diagnose.traces import Trace
from s2s.metrics.bootstrap import paired_bootstrap

counts = st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=5)


def entropy(chances):
    return -sum(chance * math.log2(chance) for chance in chances if chance)


def random_judged(seed, sentences=12):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 9, size=sentences)
    return [Judged(generator.random(size), generator.random(size) < 0.4) for size in sizes]


def naive_error(judged, edges):
    """Bins as (edge, next edge], one token after the other."""
    bounds = [-math.inf, *edges, math.inf]
    tokens = [pair for one in judged for pair in zip(one.confidences, one.correct, strict=True)]
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
        tokens = [(c, r) for one in judged for c, r in zip(one.confidences, one.correct, strict=True)]
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
    one, other = random_judged(2, 80), random_judged(3, 80)
    a, b = (calibration.statistics(judged, equal_width()) for judged in (one, other))
    found = paired_bootstrap(a, b, expected_calibration_error, samples=200)
    assert found.difference == pytest.approx(naive_error(one, equal_width()) - naive_error(other, equal_width()))
    assert found.low < found.difference < found.high or found.p > 0.05


def test_what_is_judged_behind_gold_and_behind_own_prefixes():
    logs = np.log([0.5, 0.25, 0.2])
    gold = Trace(np.array([7, 8, 3]), logs, logs, np.array([7, 9, 3]), np.log([0.5, 0.7, 0.2]))
    own = Trace(np.array([8, 3]), logs[:2], logs[:2], np.array([8, 3]), logs[:2])
    [forced], [free] = judge_forced([gold]), judge_free([own], [gold])
    assert forced.confidences.tolist() == pytest.approx([0.5, 0.7, 0.2])
    assert forced.correct.tolist() == [True, False, True]
    assert free.confidences.tolist() == pytest.approx([0.5, 0.25])
    assert free.correct.tolist() == [True, True]  # the token left out shifts nothing


@given(counts, counts, st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=40)
def test_the_divergence_is_what_the_mixture_has_more_entropy_than_its_parts(ours, theirs, added):
    found = jensen_shannon(Counter(ours), Counter(theirs), added)
    assert found == pytest.approx(jensen_shannon(Counter(theirs), Counter(ours), added))
    kinds = sorted(ours.keys() | theirs.keys())
    p, q = (np.array([side.get(kind, 0) + added for kind in kinds]) for side in (ours, theirs))
    if p.sum() and q.sum():
        p, q = p / p.sum(), q / q.sum()
        assert found == pytest.approx(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, abs=1e-9)
    else:
        assert found == bool(kinds)


def test_sets_without_a_common_word_diverge_by_one_bit_and_gold_from_itself_as_expected():
    texts, others = [["a", "b"], ["c"], ["a"], ["b", "c"]], [["x"], ["y", "x"], ["x"], []]
    assert divergence(others, texts, 1).found == pytest.approx(1)
    same = divergence(texts, texts, 1)
    assert same.found == pytest.approx(same.expected)
    assert same.excess == pytest.approx(0)
    assert count(["abab", "ab", "c"], [0, 1], 2) == {("a", "b"): 3, ("b", "a"): 1}


def test_the_excess_of_texts_of_the_same_kind_is_near_nothing_and_of_another_kind_is_not():
    generator = np.random.default_rng(0)
    skewed = [0.4, 0.3, 0.2, 0.1]
    gold, like = (generator.choice(4, size=(300, 6), p=skewed).tolist() for _ in range(2))
    other = generator.choice(4, size=(300, 6)).tolist()
    assert abs(divergence(like, gold, 2).excess) < 0.02 < divergence(other, gold, 2).excess


def test_a_mismatch_has_its_parts():
    hypotheses, references = [["a", "a", "a", "a"], []], [["a", "b"], ["c", "d"]]
    found = mismatch(hypotheses, references, orders=(1, 2))
    assert found.length_ratio == 1
    assert found.empty == (0.5, 0)
    assert found.distinct == {1: (0.25, 1), 2: (pytest.approx(1 / 3), 1)}
    assert found.repeated == {1: (0.375, 0), 2: (pytest.approx(1 / 3), 0)}
    assert found.lengths == (1, 0)
    with pytest.raises(ValueError, match="pairs"):
        divergence([["a"]], [["a"]], 1)
