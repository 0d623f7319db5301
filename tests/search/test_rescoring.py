"""Ensembles, scores of given hypotheses, re-ranking and streams, each against loops over tables."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, random_table, total_of

from s2s.search import ConstrainedScorer, Ensemble, MinimumLength, beam_search, greedy_stream, rerank, token_scores

few = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS, count=st.integers(1, 3), beams=st.integers(1, 4), weighted=st.booleans())
@few
def test_an_ensemble_is_searched_as_the_mean_of_probabilities(seed, count, beams, weighted):
    tables = [random_table(seed + number, 4) for number in range(count)]
    weights = [1.0 + number for number in range(count)] if weighted else None
    shares = [weight / sum(weights) for weight in weights] if weights else [1 / count] * count

    def mean(name, prefix):
        rows = [table(name, prefix) for table in tables]
        chances = [
            sum(share * math.exp(row[token]) for share, row in zip(shares, rows, strict=True)) for token in range(4)
        ]
        return [math.log(chance) if chance else -math.inf for chance in chances]

    ensemble = Ensemble([TableScorer(table, range(3)) for table in tables], weights)
    wanted = beam_search(TableScorer(mean, range(3)), beams, 5, beams, 0.5)
    found = beam_search(ensemble, beams, 5, beams, 0.5)
    assert found == [[(tokens, pytest.approx(score)) for tokens, score in rows] for rows in wanted]


def test_ensembles_that_make_no_sense_are_refused():
    few_tokens, many_tokens = (TableScorer(random_table(0, size), [0]) for size in (3, 4))
    with pytest.raises(ValueError, match="vocabularies of"):
        beam_search(Ensemble([few_tokens, many_tokens]), 1, 3)
    for scorers, weights in [([], None), ([few_tokens], [0.0]), ([few_tokens], [1.0, 1.0])]:
        with pytest.raises(ValueError, match="positive weight"):
            Ensemble(scorers, weights)
    with pytest.raises(ValueError, match="differ in"):
        Ensemble([few_tokens, TableScorer(random_table(0, 3), [0, 1])])


@given(seed=SEEDS)
@few
def test_token_scores_are_looked_up_one_by_one(seed):
    chance, table, sources = random.Random(seed), random_table(seed, 4), random.Random(seed).randint(1, 4)
    longest = [chance.randint(0, 5) for _ in range(sources)]
    candidates = [
        [[chance.randint(1, 3) for _ in range(chance.randint(0, most))] for _ in range(chance.randint(0, 3))]
        for most in longest
    ]
    found = token_scores(TableScorer(table, range(sources)), candidates, longest)
    for name, rows in enumerate(candidates):
        fed = [tuple(row) if len(row) == longest[name] else (*row, 0) for row in rows]
        wanted = [[table(name, row[:place])[token] for place, token in enumerate(row)] for row in fed]
        assert found[name] == wanted


@given(seed=SEEDS, beams=st.integers(1, 4))
@few
def test_token_scores_sum_to_what_the_search_ranked(seed, beams):
    scorer = TableScorer(random_table(seed, 4), range(3))
    found = beam_search(scorer, beams, 6, beams)
    scores = token_scores(scorer, [[tokens for tokens, _ in rows] for rows in found], 6)
    sums = [[pytest.approx(sum(row), abs=1e-9) for row in rows] for rows in scores]
    assert [[score for _, score in rows] for rows in found] == sums


@given(seed=SEEDS, weight=st.floats(0, 1))
@few
def test_reranking_mixes_the_scores_and_sorts(seed, weight):
    first, second = random_table(seed, 4, impossible=0.0), random_table(seed + 1, 4, impossible=0.0)
    found = beam_search(TableScorer(first, range(2)), 4, 5, 4)
    for name, rows in enumerate(rerank(TableScorer(second, range(2)), found, 5, weight)):
        assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)
        assert sorted(tokens for tokens, _ in rows) == sorted(tokens for tokens, _ in found[name])
        for tokens, score in rows:
            fed = tuple(tokens) if len(tokens) == 5 else (*tokens, 0)
            wanted = (1 - weight) * total_of(first, name, fed) + weight * total_of(second, name, fed)
            assert score == pytest.approx(wanted)


@given(seed=SEEDS)
@few
def test_a_stream_is_the_search_with_one_beam_step_by_step(seed):
    chance, table = random.Random(seed), random_table(seed, 4)
    longest = [chance.randint(0, 6) for _ in range(chance.randint(0, 4))]
    scorer = TableScorer(table, range(len(longest)))
    streamed = list(greedy_stream(scorer, longest))
    found = beam_search(TableScorer(table, range(len(longest))), 1, longest)
    by_step = [(step, name, token) for name, [(tokens, _)] in enumerate(found) for step, token in enumerate(tokens)]
    assert streamed == [(name, token) for _, name, token in sorted(by_step)]


@given(seed=SEEDS)
@few
def test_of_equal_tokens_one_beam_and_a_stream_take_the_first(seed):
    """As in bfloat16, which tells few log-probabilities apart; the end, token 0, is among the equal ones."""
    chance = random.Random(seed)
    size, shortest, longest = chance.choice([3, 40, 200]), chance.randint(0, 4), 6

    def table(name, prefix):
        drawn = random.Random(repr((seed, name, prefix)))
        return [-1.0 - drawn.randint(0, 1) for _ in range(size)]

    found = beam_search(TableScorer(table, range(3)), 1, longest, min_length=shortest)
    scorer = ConstrainedScorer(TableScorer(table, range(3)), [MinimumLength([shortest] * 3, 0)])
    streamed = list(greedy_stream(scorer, longest))
    for name, [(tokens, _)] in enumerate(found):
        assert tokens == [token for source, token in streamed if source == name]
        for step, token in enumerate(tokens):
            row = table(name, tuple(tokens[:step]))[step < shortest :]
            assert token == row.index(max(row)) + (step < shortest)


def test_a_stream_asks_for_no_token_before_it_is_read():
    scorer = TableScorer(random_table(0, 4, impossible=0.0), [0])
    scorer.table = lambda *_: [-9.0, -0.1, -9.0, -9.0]
    stream = greedy_stream(scorer, 5)
    assert [next(stream), len(scorer.steps), next(stream), len(scorer.steps)] == [(0, 1), 1, (0, 1), 2]


def test_a_stream_says_where_it_met_a_nan():
    with pytest.raises(ValueError, match="step 2"):
        list(greedy_stream(TableScorer(lambda _, prefix: [-1.0, math.nan if prefix else -0.1], [0]), 5))
