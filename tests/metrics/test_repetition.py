"""Repetition, copies and lengths against loops over all positions, and their laws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.metrics import copy_rate, distinct_n, length_ratio, longest_copy, seq_rep_n

TEXTS = st.lists(st.sampled_from("abc"), max_size=10)
ns = st.integers(1, 4)
few = settings(deadline=None, max_examples=100)


def places(text: list[str], n: int) -> list[list[str]]:
    return [text[start : start + n] for start in range(len(text) - n + 1)]


@given(text=TEXTS, n=ns)
@few
def test_seq_rep_n_counts_the_n_grams_that_stood_there_before(text: list[str], n: int) -> None:
    found = places(text, n)
    repeats = sum(ngram in found[:index] for index, ngram in enumerate(found))
    assert seq_rep_n(text, n) == pytest.approx(repeats / max(1, len(found)), abs=1e-12)
    assert 0 <= seq_rep_n(text, n) < 1
    if len(text) >= n:
        assert distinct_n([text], n) == pytest.approx(1 - seq_rep_n(text, n), abs=1e-12)


@given(texts=st.lists(TEXTS, max_size=4), n=ns)
@few
def test_distinct_n_counts_over_the_set_and_no_n_gram_spans_two_texts(texts: list[list[str]], n: int) -> None:
    found = [ngram for text in texts for ngram in places(text, n)]
    first = [ngram for index, ngram in enumerate(found) if ngram not in found[:index]]
    assert distinct_n(texts, n) == pytest.approx(len(first) / max(1, len(found)), abs=1e-12)
    assert distinct_n(texts + texts, n) == pytest.approx(distinct_n(texts, n) / 2, abs=1e-12)


@given(hypothesis=TEXTS, source=TEXTS)
@few
def test_the_longest_copy_is_that_of_all_runs(hypothesis: list[str], source: list[str]) -> None:
    runs = [n for n in range(1, len(hypothesis) + 1) if any(run in places(source, n) for run in places(hypothesis, n))]
    assert longest_copy(hypothesis, source) == max(runs, default=0)
    assert longest_copy(source, hypothesis) == longest_copy(hypothesis, source)


@given(hypothesis=TEXTS, source=TEXTS, n=ns)
@few
def test_a_token_is_copied_if_a_run_around_it_is(hypothesis: list[str], source: list[str], n: int) -> None:
    copied = 0
    for place in range(len(hypothesis)):
        around = [hypothesis[start : start + n] for start in range(max(0, place - n + 1), place + 1)]
        copied += any(len(run) == n and run in places(source, n) for run in around)
    rate = copy_rate(hypothesis, source, n)
    assert rate == pytest.approx(copied / max(1, len(hypothesis)), abs=1e-12)
    assert (rate > 0) == (longest_copy(hypothesis, source) >= n)
    assert rate >= copy_rate(hypothesis, source, n + 1)
    assert copy_rate(hypothesis, hypothesis, n) == (len(hypothesis) >= n)


def test_examples_by_hand() -> None:
    said = ["the", "cat", "sat", "on", "the", "cat"]
    source = ["a", "cat", "sat", "down", "the", "cat", "sat"]
    assert seq_rep_n(said, 1) == pytest.approx(2 / 6)
    assert seq_rep_n(said, 2) == pytest.approx(1 / 5)
    assert distinct_n([said, ["the"]], 1) == pytest.approx(4 / 7)
    assert longest_copy(said, source) == 3
    assert [copy_rate(said, source, n) for n in (1, 2, 3, 4)] == pytest.approx([5 / 6, 5 / 6, 3 / 6, 0])
    assert copy_rate(said, source) == copy_rate(said, source, 1)
    assert longest_copy([1, 2, 3], [2, 3]) == 2


def test_the_length_ratio_is_that_of_all_tokens() -> None:
    assert length_ratio(["a", "bcd", ""], ["ab", "c", "de"]) == pytest.approx(4 / 5)
    with pytest.raises(ValueError, match=r"^1 hypotheses, but 2 references$"):
        length_ratio(["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"^references: no tokens"):
        length_ratio(["a"], [""])


@pytest.mark.parametrize("n", [0, -1])
def test_an_n_gram_has_a_token(n: int) -> None:
    for statistic in (lambda: distinct_n(["a"], n), lambda: seq_rep_n("a", n), lambda: copy_rate("a", "a", n)):
        with pytest.raises(ValueError, match=f"at least 1 token, not {n}"):
            statistic()
