"""Length scores and early stops against a search of one source that never stops and scores by loops."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, random_table

from s2s.search import PowerPenalty, TranslationPenalty, WordReward, beam_search, relative_lengths
from s2s.search.length_scores import (
    best_reachable,
    enough_are_found,
    never,
    nothing_better_can_come,
    nothing_better_ends_now,
)

few = settings(deadline=None, max_examples=60)
SCORES = st.one_of(
    st.floats(-1, 2).map(PowerPenalty), st.floats(-1, 2).map(TranslationPenalty), st.floats(-1, 1).map(WordReward)
)
STOPS = [nothing_better_can_come, nothing_better_ends_now, enough_are_found, never]


def by_hand(score, total, length):
    if isinstance(score, PowerPenalty):
        return total / math.exp(score.power * math.log(length))
    if isinstance(score, TranslationPenalty):
        return total * 6**score.alpha / (5 + length) ** score.alpha
    return sum([total, *[score.gamma] * length])


def naive(table, name, beams, longest, n_best, score, stop):
    """Search one source alone; ``stop`` hears (scores found, best sum, next length)."""
    live, found = {(): 0.0}, []
    for length in range(1, longest + 1):
        grown = {(*key, token): live[key] + more for key in live for token, more in enumerate(table(name, key))}
        best = sorted((key for key in grown if grown[key] > -math.inf), key=lambda key: -grown[key])[:beams]
        final = {key for key in best if key[-1] == 0 or length == longest}
        found += [
            ([token for token in key if token], by_hand(score, grown[key], length)) for key in best if key in final
        ]
        found = sorted(found, key=lambda hypothesis: -hypothesis[1])[:n_best]
        live = {key: grown[key] for key in best if key not in final}
        if not live or stop([worth for _, worth in found], max(live.values()), length + 1):
            break
    return found


def close(found):
    return [(tokens, pytest.approx(score, abs=1e-9)) for tokens, score in found]


@given(score=SCORES, total=st.floats(-9, 0), shortest=st.integers(1, 9), more=st.integers(0, 9), less=st.floats(0, 5))
@few
def test_no_length_in_the_range_scores_above_the_bound(score, total, shortest, more, less):
    assert score(total, shortest) == pytest.approx(by_hand(score, total, shortest))
    bound = best_reachable(score, total, shortest, shortest + more)
    values = [score(total, length) for length in range(shortest, shortest + more + 1)]
    assert bound == pytest.approx(max(values))
    assert all(score(total - less, length) <= bound + 1e-9 for length in range(shortest, shortest + more + 1))


@given(seed=st.integers(0, 2**32), score=SCORES)
@few
def test_stopping_safely_is_never_stopping(seed, score):
    chance = random.Random(seed)
    vocabulary, beams, sources = chance.randint(2, 4), chance.randint(1, 4), chance.randint(1, 3)
    table, n_best, longest = random_table(seed, vocabulary), chance.randint(1, beams), chance.randint(1, 8)
    scorers = [TableScorer(table, range(sources)) for _ in STOPS]
    found = {
        stop: beam_search(scorer, beams, longest, n_best, score, stop=stop)
        for stop, scorer in zip(STOPS, scorers, strict=True)
    }
    assert found[nothing_better_can_come] == found[never]
    assert len(scorers[0].steps) <= len(scorers[-1].steps)
    rules = {
        never: lambda *_: False,
        enough_are_found: lambda worths, *_: len(worths) == n_best,
        nothing_better_ends_now: lambda worths, best, length: (
            len(worths) == n_best and by_hand(score, best, length) <= worths[-1]
        ),
    }
    for stop, rule in rules.items():
        wanted = [naive(table, name, beams, longest, n_best, score, rule) for name in range(sources)]
        assert found[stop] == [close(rows) for rows in wanted]


def test_the_heuristic_stops_miss_what_comes_from_behind():
    rows = {(): [0.5, 0.5], (1,): [0.0, 1.0], (1, 1): [0.0, 1.0]}

    def table(_, prefix):
        return [math.log(chance) if chance else -math.inf for chance in rows.get(prefix, [1.0, 0.0])]

    score = PowerPenalty(1.0)
    best = [beam_search(TableScorer(table, [0]), 2, 5, 1, score, stop=stop)[0][0][0] for stop in STOPS]
    assert best == [[1, 1, 1], [1, 1, 1], [], [1, 1, 1]]


@given(lengths=st.lists(st.integers(0, 50)), ratio=st.floats(0, 3), offset=st.integers(-5, 9), limit=st.integers(0, 60))
@few
def test_relative_lengths_follow_each_source(lengths, ratio, offset, limit):
    for length, found in zip(lengths, relative_lengths(lengths, ratio, offset, limit), strict=True):
        assert found == min(limit, max(0, int(ratio * length) + offset))
    assert relative_lengths(lengths, 1.0) == lengths


@pytest.mark.parametrize(
    ("ratio", "length", "wanted"),
    [(0.29, 100, 29), (1.15, 100, 115), (0.57, 100, 57), (1 / 3, 3, 1), (1.1, 10, 11), (2.9999999999999996, 1, 2)],
)
def test_a_length_that_is_met_to_the_last_bit_is_met(ratio, length, wanted):
    assert relative_lengths([length], ratio) == [wanted]
