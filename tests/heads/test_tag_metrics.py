"""Scores of tags and sets of labels against seqeval and scikit-learn."""

import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s2s.metrics.tags import (
    f1,
    label_sums,
    macro_f1,
    precision_sums,
    share,
    span_sums,
    spans,
    tag_macro_f1,
    token_sums,
)

seqeval = pytest.importorskip("seqeval.metrics")
sklearn = pytest.importorskip("sklearn.metrics")

KINDS = ["PER", "LOC-X"]
TAGS = st.sampled_from(["O", *(f"{tag}-{kind}" for tag in "BIES" for kind in KINDS)])
BARE = st.sampled_from(["O", "B", "I", "E", "S"])
ROWS = st.one_of(st.lists(st.lists(tags, min_size=1, max_size=7), min_size=1, max_size=4) for tags in (TAGS, BARE))
SETS = st.lists(st.tuples(st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4))), min_size=1, max_size=6)
few = settings(deadline=None, max_examples=60)


def entity_f1(predicted: list[list[str]], gold: list[list[str]]) -> float:
    return float(f1(span_sums(predicted, gold).sum(axis=0)))


def accuracy(predicted: list[list[str]], gold: list[list[str]]) -> float:
    return float(share(token_sums(predicted, gold).sum(axis=0)))


def micro_f1(predicted: list[set[int]], gold: list[set[int]]) -> float:
    return float(f1(label_sums(predicted, gold).sum(axis=0)))


def precision_at(k: int, rankings: list[list[int]], gold: list[set[int]]) -> float:
    return float(share(precision_sums(k, rankings, gold).sum(axis=0)))


@given(gold=ROWS, data=st.data())
@few
def test_spans_are_those_of_seqeval(gold: list[list[str]], data: st.DataObject) -> None:
    known = sorted({tag for row in gold for tag in row})
    predicted = [data.draw(st.lists(st.sampled_from(known), min_size=len(row), max_size=len(row))) for row in gold]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where nothing is said
        expected = 100 * seqeval.f1_score(gold, predicted)
    assert entity_f1(predicted, gold) == pytest.approx(float(expected))
    assert accuracy(predicted, gold) == pytest.approx(100 * seqeval.accuracy_score(gold, predicted))
    flat = [tag for row in predicted for tag in row], [tag for row in gold for tag in row]
    theirs = sklearn.f1_score(flat[1], flat[0], average="macro", zero_division=0)
    assert tag_macro_f1(predicted, gold) == pytest.approx(100 * theirs)


@given(gold=ROWS, data=st.data())
@few
def test_sums_of_drawn_rows_give_the_score_of_these_rows(gold: list[list[str]], data: st.DataObject) -> None:
    known = sorted({tag for row in gold for tag in row})
    predicted = [data.draw(st.lists(st.sampled_from(known), min_size=len(row), max_size=len(row))) for row in gold]
    # As a bootstrap draws rows: some twice, others not at all.
    drawn = data.draw(st.lists(st.integers(0, len(gold) - 1), min_size=1, max_size=6))
    theirs = [gold[row] for row in drawn], [predicted[row] for row in drawn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where nothing is said
        expected = 100 * seqeval.f1_score(*theirs)
    assert f1(span_sums(predicted, gold)[drawn].sum(axis=0)) == pytest.approx(float(expected))
    assert share(token_sums(predicted, gold)[drawn].sum(axis=0)) == pytest.approx(100 * seqeval.accuracy_score(*theirs))


@given(pairs=SETS)
@few
def test_sums_of_sets_are_their_sizes(pairs: list[tuple[set[int], set[int]]]) -> None:
    predicted, gold = ([side for side, _ in pairs], [side for _, side in pairs])
    expected = [[sum(label in golds for label in labels), len(labels), len(golds)] for labels, golds in pairs]
    assert label_sums(predicted, gold).tolist() == expected
    rankings = [sorted(labels) for labels in predicted]
    right = [[sum(label in golds for label in row[:2]), 2] for row, golds in zip(rankings, gold, strict=True)]
    assert precision_sums(2, rankings, gold).tolist() == right


def test_measures_of_no_rows_are_zero() -> None:
    assert [f1(label_sums([], []).sum(axis=0)), share(token_sums([], []).sum(axis=0)), precision_at(1, [], [])] == [
        0
    ] * 3


def test_the_middle_of_bmes_goes_on_and_lost_tags_are_nothing() -> None:
    assert spans(["B-X", "M-X", "E-X", "S-Y", "M-Y", None, "O", "B-X"]) == [
        ("X", 0, 3),
        ("Y", 3, 4),
        ("Y", 4, 5),
        ("X", 7, 8),
    ]
    assert spans(["B", "E", "B", "M", "E", "S"]) == [("", 0, 2), ("", 2, 5), ("", 5, 6)]


@given(pairs=SETS)
@few
def test_f1_of_sets_is_scikit_learn_s(pairs: list[tuple[set[int], set[int]]]) -> None:
    predicted, gold = ([side for side, _ in pairs], [side for _, side in pairs])
    assume(any(ours and theirs for ours, theirs in pairs))  # what 0 / 0 is has been changed there over time
    there = sorted(set().union(*predicted, *gold))
    assume(len(there) > 1)  # a single column is to scikit-learn a vector of classes, not of labels
    rows = [[[int(label in side) for label in there] for side in sides] for sides in (gold, predicted)]
    for name, score in (("micro", micro_f1(predicted, gold)), ("macro", macro_f1(predicted, gold))):
        assert score == pytest.approx(100 * sklearn.f1_score(*rows, average=name, zero_division=0))


def test_precision_is_over_k_even_where_fewer_are_real() -> None:
    assert precision_at(2, [[3, 1, 2], [0, 4, 1]], [{1, 3}, {1}]) == 50.0
    assert precision_at(1, [["a"], ["b"]], [["a"], ["a"]]) == 50.0


@pytest.mark.parametrize("score", [entity_f1, accuracy, tag_macro_f1])
@pytest.mark.parametrize(
    ("predicted", "gold"),
    [([["B-X"]], [["B-X", "I-X"]]), ([["B-X", "O"], ["O"]], [["B-X", "O"]]), ([["O", "O"], ["O"]], [["O", "O"], []])],
)
def test_rows_of_unequal_length_are_refused(score, predicted: list[list[str]], gold: list[list[str]]) -> None:
    with pytest.raises(ValueError, match=r"^row \d: \d tags, but \d are gold|^2 rows of tags, but 1 are gold"):
        score(predicted, gold)


@pytest.mark.parametrize("score", [micro_f1, macro_f1])
def test_sets_that_do_not_pair_are_refused(score) -> None:
    with pytest.raises(ValueError, match="argument"):
        score([{"a"}, {"b"}], [{"a"}])
