"""Texts that break under perturbed sources, and the interval of a share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.diagnose.hallucination import FREQUENT, hallucinations, perturbed, wilson

sources = st.lists(st.lists(st.integers(4, 200), min_size=1, max_size=8).map(lambda ids: [2, *ids, 3]), min_size=1)


@given(rows=sources, seed=st.integers(0, 9))
def test_a_source_gets_one_frequent_token_that_it_does_not_begin_with(rows, seed):
    longer = perturbed(rows, 10, seed)
    tokens = [token for row in rows for token in row[1:-1]]
    for row, new in zip(rows, longer, strict=True):
        assert (new[0], new[-1]) == (2, 3)
        assert new[2:-1] == (row[1:-1] if len(row) < 10 else row[1:-2])
        assert new[1] in tokens
        assert new[1] != row[1] or set(tokens) == {row[1]}
    assert longer == perturbed(rows, 10, seed)
    extended = perturbed([*rows, rows[0]], 10, seed)
    assert len(extended) == len(rows) + 1


def test_only_the_most_frequent_tokens_are_put_there():
    rows = [[2, 500, 3]] + [[2, token, token, 3] for token in range(4, 4 + FREQUENT)]
    assert all(row[1] != 500 for seed in range(5) for row in perturbed(rows, 9, seed)[1:])


def test_a_text_that_was_fit_and_is_not_any_more_counts():
    references = ["the first value of a table"] * 4
    before = [references[0], references[0], "zq", "the first value"]
    after = ["zq", references[0], "zq", ""]
    assert hallucinations(before, after, references).tolist() == [[1, 1], [0, 1], [0, 0], [1, 1]]


def test_wilson_s_interval_solves_its_equation():
    # The ends p of the interval are where the share is 1.96 standard errors of p away.
    for hits, trials in ((0, 10), (3, 10), (10, 10), (1, 300)):
        share, low, high = wilson(hits, trials)
        assert share == hits / trials
        for end in (low, high):
            assert abs(share - end) == pytest.approx(1.959963984540054 * np.sqrt(end * (1 - end) / trials), abs=1e-7)
    assert wilson(0, 10).low == pytest.approx(0, abs=1e-12)
    assert wilson(10, 10).high == pytest.approx(1)
    assert all(np.isnan(wilson(0, 0)))
