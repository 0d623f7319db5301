"""Diverse beams against a plain loop over the groups of one source."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, random_table

from s2s.search import beam_search, diverse_beam_search


def plain(table, name, groups, beams, longest, shortest, strength, n_best):
    """Group after group; each ranks by sum less strength times the count of the token at the step before it."""
    taken, answers = [Counter() for _ in range(longest)], []
    for _ in range(groups):
        live, found = {(): 0.0}, []
        for step in range(longest):
            grown = {
                (*key, token): total + more
                for key, total in live.items()
                for token, more in enumerate(table(name, key))
                if more > -math.inf and (token or step >= shortest)
            }
            rank = {key: total - strength * taken[step][key[-1]] for key, total in grown.items()}
            kept = sorted(grown, key=lambda key: -rank[key])[:beams]
            taken[step].update(key[-1] for key in kept)
            done = [key for key in kept if key[-1] == 0 or step + 1 == longest]
            found += [([token for token in key if token], grown[key]) for key in done]
            found = sorted(found, key=lambda hypothesis: -hypothesis[1])[:n_best]
            live = {key: grown[key] for key in kept if key not in done}
            if not live or (len(found) == n_best and max(live.values()) <= found[-1][1]):
                break
        answers.append(found)
    return answers


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_each_source_is_searched_group_by_group_as_by_the_plain_loop(seed):
    chance = random.Random(seed)
    vocabulary, groups, beams, sources = (chance.randint(1, 4) for _ in range(4))
    table, strength, n_best = random_table(seed, vocabulary + 1), chance.uniform(0, 3), chance.randint(1, beams)
    longest = [chance.randint(1, 6) for _ in range(sources)]
    shortest = [chance.randint(0, 2) for _ in range(sources)]
    scorer = TableScorer(table, range(sources))
    found = diverse_beam_search(scorer, groups, beams, longest, strength, n_best, min_length=shortest)
    for name, rows in enumerate(found):
        wanted = plain(table, name, groups, beams, longest[name], shortest[name], strength, n_best)
        assert rows == [[(tokens, pytest.approx(score)) for tokens, score in each] for each in wanted]


@given(seed=st.integers(0, 2**32), strength=st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=20)
def test_the_first_group_and_any_of_no_strength_is_plain_beam_search(seed, strength):
    scorer = TableScorer(random_table(seed, 4), range(3))
    wanted = beam_search(scorer, 3, [0, 4, 6], 2, 0.7)
    found = diverse_beam_search(scorer, 2, 3, [0, 4, 6], strength, 2, 0.7)
    assert [rows[0] for rows in found] == wanted
    assert strength or [rows[1] for rows in found] == wanted


def test_a_great_strength_makes_single_beams_begin_with_different_tokens():
    scorer = TableScorer(random_table(1, 6, impossible=0.0), range(4))
    for groups in diverse_beam_search(scorer, 6, 1, 4, 1e6):
        assert len({tuple(rows[0][0][:1]) for rows in groups}) == 6


@pytest.mark.parametrize(("groups", "strength"), [(0, 1.0), (1, -1.0)])
def test_what_makes_no_sense_is_refused(groups, strength):
    with pytest.raises(ValueError, match="groups must"):
        diverse_beam_search(TableScorer(random_table(0, 3), [0]), groups, 1, 3, strength)
