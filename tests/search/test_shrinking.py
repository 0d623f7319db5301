"""The article's shrinking beams against a plain loop over one source with lists."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, random_table

from s2s.search import beam_search, shrinking_beam_search


def plain(table, name, width, longest):
    """The loop as the article describes it: keep the best few, give the best once it has ended, drop what has ended."""
    kept = [([], 0.0)]
    for _ in range(longest):
        grown = [
            ([*tokens, token], total + math.log(math.exp(value) + 1e-12))
            for tokens, total in kept
            for token, value in enumerate(table(name, tuple(tokens)))
        ]
        kept = sorted(grown, key=lambda hypothesis: -hypothesis[1])[:width]
        if kept[0][0][-1] == 0:
            return kept[0][0][:-1], kept[0][1]
        unfinished = [hypothesis for hypothesis in kept if hypothesis[0][-1] != 0]
        if len(unfinished) < len(kept):
            kept, width = unfinished, len(unfinished)
    return kept[0]


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_each_source_is_searched_as_by_the_plain_loop(seed):
    chance = random.Random(seed)
    vocabulary, width, sources = chance.randint(2, 5), chance.randint(1, 5), chance.randint(0, 4)
    longest = [chance.randint(0, 8) for _ in range(sources)]
    table = random_table(seed, vocabulary, power=chance.randint(1, 5))
    found = shrinking_beam_search(TableScorer(table, range(sources)), width, longest)
    for name, [(tokens, score)] in enumerate(found):
        wanted, total = plain(table, name, width, longest[name])
        assert (tokens, score) == (wanted, pytest.approx(total, abs=1e-9))


def test_a_dropped_hypothesis_is_missed():
    rows = {(): [0.4, 0.6, 0.0], (1,): [0.5, 0.25, 0.25]}

    def table(_, prefix):
        row = rows.get(prefix, [0.5, 0.25, 0.25])
        return [math.log(chance) if chance else -math.inf for chance in row]

    assert beam_search(TableScorer(table, [0]), 2, 5)[0][0][0] == []
    assert shrinking_beam_search(TableScorer(table, [0]), 2, 5)[0][0][0] == [1]


def test_one_beam_is_greedy():
    scorer = TableScorer(random_table(3, 5, impossible=0.0), range(6))
    greedy, shrinking = beam_search(scorer, 1, 7), shrinking_beam_search(scorer, 1, 7)
    assert [rows[0][0] for rows in shrinking] == [rows[0][0] for rows in greedy]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="got 0"):
        shrinking_beam_search(TableScorer(random_table(0, 3), [0]), 0, 5)
    with pytest.raises(ValueError, match="2 values for 1"):
        shrinking_beam_search(TableScorer(random_table(0, 3), [0]), 1, [5, 5])
