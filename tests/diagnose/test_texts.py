"""Differences of sets of texts against exact values."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.diagnose.texts import count_ngrams, divergence, jensen_shannon, mismatch

counts = st.dictionaries(st.integers(0, 5), st.integers(1, 9), max_size=5)


def entropy(chances):
    return -sum(chance * math.log2(chance) for chance in chances if chance)


@given(counts, counts)
@settings(deadline=None, max_examples=40)
def test_the_divergence_is_the_entropy_of_the_mixture_beyond_that_of_its_parts(first, second):
    bits = jensen_shannon(Counter(first), Counter(second))
    assert bits == pytest.approx(jensen_shannon(Counter(second), Counter(first)))
    kinds = sorted(first.keys() | second.keys())
    p, q = (np.array([side.get(kind, 0) for kind in kinds]) for side in (first, second))
    if p.sum() and q.sum():
        p, q = p / p.sum(), q / q.sum()
        assert bits == pytest.approx(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, abs=1e-9)
    else:
        assert bits == bool(kinds)


def test_sets_without_a_common_word_diverge_by_one_bit_and_gold_from_itself_as_expected():
    texts, others = [["a", "b"], ["c"], ["a"], ["b", "c"]], [["x"], ["y", "x"], ["x"], []]
    assert divergence(others, texts, 1).observed == pytest.approx(1)
    same = divergence(texts, texts, 1)
    assert same.observed == pytest.approx(same.expected)
    assert count_ngrams(["abab", "ab", "c"], [0, 1], 2) == {("a", "b"): 3, ("b", "a"): 1}


def test_the_excess_of_texts_of_the_same_kind_is_near_nothing_and_of_another_kind_is_not():
    generator = np.random.default_rng(0)
    skewed = [0.4, 0.3, 0.2, 0.1]
    gold, like = (generator.choice(4, size=(300, 6), p=skewed).tolist() for _ in range(2))
    other = generator.choice(4, size=(300, 6)).tolist()

    def excess(texts):
        measured = divergence(texts, gold, 2)
        return measured.observed - measured.expected

    assert abs(excess(like)) < 0.02 < excess(other)


def test_a_mismatch_has_its_parts():
    hypotheses, references = [["a", "a", "a", "a"], []], [["a", "b"], ["c", "d"]]
    measured = mismatch(hypotheses, references, orders=(1, 2))
    assert measured["length_ratio"] == 1
    assert measured["empty"] == {"hypotheses": 0.5, "references": 0}
    assert measured["distinct"]["1"] == {"hypotheses": 0.25, "references": 1}
    assert measured["distinct"]["2"] == {"hypotheses": pytest.approx(1 / 3), "references": 1}
    assert measured["repeated"]["1"] == {"hypotheses": 0.375, "references": 0}
    assert measured["repeated"]["2"] == {"hypotheses": pytest.approx(1 / 3), "references": 0}
    assert measured["lengths"] == {"found": 1, "expected": 0}
    with pytest.raises(ValueError, match="pairs"):
        divergence([["a"]], [["a"]], 1)
