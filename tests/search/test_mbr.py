"""Minimum Bayes risk against a double loop, and its aggregate form against its definition and sacrebleu's chrF."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.metrics.sentence import sentence_metric
from s2s.search import aggregate_bayes_risk, minimum_bayes_risk

few = settings(deadline=None, max_examples=40)
TEXTS = st.lists(st.text("ab c", max_size=9), min_size=1, max_size=6)
TOKENS = st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6)


def shares_of(data, count):
    weights = data.draw(st.none() | st.lists(st.floats(0.1, 5), min_size=count, max_size=count))
    given_or_equal = weights or [1.0] * count
    return weights, [weight / sum(given_or_equal) for weight in given_or_equal]


def overlap(first, second):
    """Something that is not symmetric."""
    return len(set(first) & set(second)) / (1 + len(first))


@given(candidates=TEXTS, data=st.data())
@few
def test_the_expected_utility_is_a_double_loop(candidates, data):
    weights, shares = shares_of(data, len(candidates))
    chrf = sentence_metric("chrf")
    wanted = [
        sum(share * chrf(hypothesis, reference) for reference, share in zip(candidates, shares, strict=True))
        for hypothesis in candidates
    ]
    best, utilities = minimum_bayes_risk(candidates, weights=weights)
    assert utilities == pytest.approx(wanted)
    assert utilities[best] == max(utilities)
    assert best == utilities.index(max(utilities))


@given(candidates=TOKENS, data=st.data())
@few
def test_any_utility_of_token_lists_will_do(candidates, data):
    weights, shares = shares_of(data, len(candidates))
    wanted = []
    for hypothesis in candidates:
        worth = 0.0
        for reference, share in zip(candidates, shares, strict=True):
            worth += share * overlap(hypothesis, reference)
        wanted.append(worth)
    assert minimum_bayes_risk(candidates, overlap, weights).utilities == pytest.approx(wanted)


def test_equal_candidates_are_compared_once():
    asked = []

    def utility(hypothesis, reference):
        asked.append((hypothesis, reference))
        return float(hypothesis == reference)

    assert minimum_bayes_risk(["a", "b", "a", "a"], utility) == (0, [0.75, 0.25, 0.75, 0.75])
    assert sorted(asked) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]


def grams(items, size):
    return [tuple(items[place : place + size]) for place in range(len(items) - size + 1)]


def by_definition(hypothesis, references, shares, order=6, beta=2.0):
    precisions, recalls = [], []
    for size in range(1, order + 1):
        mine = Counter(grams(hypothesis, size))
        means = {
            gram: sum(share * grams(reference, size).count(gram) for reference, share in zip(references, shares))  # noqa: B905
            for reference in references
            for gram in grams(reference, size)
        }
        if mine and means:
            matched = sum(min(count, means.get(gram, 0.0)) for gram, count in mine.items())
            precisions.append(matched / len(grams(hypothesis, size)))
            recalls.append(matched / sum(means.values()))
    if not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


@given(candidates=TEXTS, data=st.data())
@few
def test_the_aggregate_form_is_chrf_against_averaged_counts(candidates, data):
    weights, shares = shares_of(data, len(candidates))
    bare = ["".join(candidate.split()) for candidate in candidates]
    wanted = [by_definition(hypothesis, bare, shares) for hypothesis in bare]
    best, utilities = aggregate_bayes_risk(candidates, weights)
    assert utilities == pytest.approx(wanted)
    assert best == utilities.index(max(utilities))


@given(candidates=TOKENS, data=st.data(), order=st.integers(1, 4), beta=st.floats(0.5, 3))
@few
def test_the_aggregate_form_counts_tokens_of_token_lists(candidates, data, order, beta):
    weights, shares = shares_of(data, len(candidates))
    wanted = [by_definition(hypothesis, candidates, shares, order, beta) for hypothesis in candidates]
    assert aggregate_bayes_risk(candidates, weights, order, beta).utilities == pytest.approx(wanted)


@given(hypothesis=st.text("abc d", max_size=12), reference=st.text("abc d", max_size=12))
@few
def test_against_one_reference_the_aggregate_form_is_sentence_chrf(hypothesis, reference):
    # All weight on the reference: the other one is only a candidate.
    utilities = aggregate_bayes_risk([hypothesis, reference], [0.0, 1.0]).utilities
    assert utilities[0] == pytest.approx(sentence_metric("chrf")(hypothesis, reference))


@pytest.mark.parametrize("decide", [minimum_bayes_risk, aggregate_bayes_risk])
@pytest.mark.parametrize(("candidates", "weights"), [([], None), (["a"], [0.0]), (["a", "b"], [1.0]), (["a"], [-1.0])])
def test_what_makes_no_sense_is_refused(decide, candidates, weights):
    with pytest.raises(ValueError, match="candidates need"):
        decide(candidates, weights=weights)
