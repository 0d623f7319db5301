"""Constraints, alone, combined and with lengths and scores, against enumeration and against edits written as loops."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, enumerated, random_table
from test_length_scores import SCORES, naive

from s2s.search import (
    AllowedOutputs,
    ConstrainedScorer,
    ForbiddenPhrases,
    ForcedPrefixes,
    MinimumLength,
    NoRepeatedNgram,
    RepetitionPenalty,
    RequiredPhrases,
    beam_search,
    greedy_stream,
    sample_search,
)

few = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32)
VOCABULARY, LONGEST, SOURCES, WIDE = 4, 4, 3, 400


def contains(tokens, phrase):
    return any(tuple(tokens[at : at + len(phrase)]) == tuple(phrase) for at in range(len(tokens)))


def phrases_of(chance, count, longest, first=1):
    lengths = [chance.randint(1, longest) for _ in range(count)]
    return [[chance.randrange(first, VOCABULARY) for _ in range(length)] for length in lengths]


def only(keep):
    """A loop's edit that makes impossible what ``keep`` (name, prefix, token) refuses."""
    return lambda name, prefix, row: [
        value if keep(name, prefix, token) else -math.inf for token, value in enumerate(row)
    ]


def ngrams(chance):
    size = chance.randint(1, 3)

    def fresh(_, prefix, token):
        windows = [(*prefix, token)[at : at + size] for at in range(len(prefix) + 2 - size)]
        return len(prefix) + 1 < size or windows.count(windows[-1]) == 1

    return NoRepeatedNgram(size), only(fresh)


def penalty(chance):
    factor = chance.uniform(0.5, 3)
    return RepetitionPenalty(factor), lambda _, prefix, row: [
        value * factor if token in prefix else value for token, value in enumerate(row)
    ]


def forbidden(chance):
    phrases = phrases_of(chance, chance.randint(0, 3), 3, first=0)
    return ForbiddenPhrases(phrases), only(
        lambda _, prefix, token: not any(contains((*prefix, token)[-len(phrase) :], phrase) for phrase in phrases)
    )


def forced(chance):
    prefixes = [phrases_of(chance, 1, 3)[0] * chance.randint(0, 1) for _ in range(SOURCES)]

    def agrees(name, prefix, token):
        return len(prefix) >= len(prefixes[name]) or prefixes[name][len(prefix)] == token

    return ForcedPrefixes(prefixes), only(agrees)


def shortest(chance):
    lengths = [chance.randint(0, 3) for _ in range(SOURCES)]
    return MinimumLength(lengths, 0), only(lambda name, prefix, token: token or len(prefix) >= lengths[name])


def allowed(chance):
    chosen = [tuple(row) for row in phrases_of(chance, chance.randint(1, 12), LONGEST)]
    ended = [(*row, 0) for row in chosen]
    return AllowedOutputs(chosen, 0), only(
        lambda _, prefix, token: any(row[: len(prefix) + 1] == (*prefix, token) for row in ended)
    )


KINDS = [ngrams, penalty, forbidden, forced, shortest, allowed]


def edited(table, edits):
    def after(name, prefix):
        row = table(name, prefix)
        for edit in edits:
            row = edit(name, prefix, row)
        return row

    return after


def close(found):
    return [(tokens, pytest.approx(score, abs=1e-9)) for tokens, score in found]


@given(seed=SEEDS, kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
@few
def test_an_exhaustive_search_finds_the_best_of_all_that_is_allowed(seed, kinds):
    chance, table = random.Random(seed), random_table(seed, VOCABULARY)
    constraints, edits = zip(*(kind(chance) for kind in kinds), strict=True)
    scorer = ConstrainedScorer(TableScorer(table, range(SOURCES)), constraints)
    wanted = [enumerated(edited(table, edits), name, VOCABULARY, LONGEST) for name in range(SOURCES)]
    assert beam_search(scorer, WIDE, LONGEST, 5) == [close(rows[:5]) for rows in wanted]


@given(seed=SEEDS, kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), beams=st.integers(1, 4))
@few
def test_a_narrow_search_sees_the_edited_distributions_and_nothing_else(seed, kinds, beams):
    chance, table = random.Random(seed), random_table(seed, VOCABULARY)
    constraints, edits = zip(*(kind(chance) for kind in kinds), strict=True)
    scorer = ConstrainedScorer(TableScorer(table, range(SOURCES)), constraints)
    plain = TableScorer(edited(table, edits), range(SOURCES))
    found, wanted = (beam_search(each, beams, 6, beams, 0.7) for each in (scorer, plain))
    assert found == [close(rows) for rows in wanted]
    assert list(greedy_stream(scorer, 6)) == list(greedy_stream(plain, 6))


@given(seed=SEEDS, count=st.integers(0, 3), beams=st.sampled_from([1, 2, WIDE]))
@few
def test_required_phrases_come_in_every_hypothesis_and_cost_no_other(seed, count, beams):
    chance, table = random.Random(seed), random_table(seed, VOCABULARY, impossible=0.0)
    phrases = phrases_of(chance, count, 2)
    longest = [chance.randint(1, LONGEST) for _ in range(SOURCES)]
    scorer = ConstrainedScorer(TableScorer(table, range(SOURCES)), [RequiredPhrases(phrases, 0, longest)])
    for name, found in enumerate(beam_search(scorer, beams, longest, min(beams, 5))):
        every = enumerated(table, name, VOCABULARY, longest[name])
        having = [row for row in every if all(contains(row[0], phrase) for phrase in phrases)]
        if beams == WIDE:
            assert found == close(having[:5])
        assert bool(found) == bool(having)
        assert all(hypothesis in [tokens for tokens, _ in having] for hypothesis, _ in found)


def test_required_phrases_share_their_overlap():
    rule = RequiredPhrases([[1, 2], [2, 3]], 0, 3)
    scorer = ConstrainedScorer(TableScorer(random_table(0, 4, impossible=0.0), [0]), [rule])
    assert [tokens for tokens, _ in beam_search(scorer, WIDE, 3, 5)[0]] == [[1, 2, 3]]


@given(seed=SEEDS)
@few
def test_samples_obey_constraints_too(seed):
    chance = random.Random(seed)
    phrase, prefix = phrases_of(chance, 1, 2)[0], phrases_of(chance, 1, 2)[0]
    table = TableScorer(random_table(seed, VOCABULARY, impossible=0.0), [0])
    scorer = ConstrainedScorer(table, [ForcedPrefixes([prefix]), RequiredPhrases([phrase], 0, 6)])
    for tokens, *_ in sample_search(scorer, 5, 6, [seed])[0]:
        assert tokens[: len(prefix)] == prefix
        assert contains(tokens, phrase)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoRepeatedNgram(0),
        lambda: RepetitionPenalty(0.0),
        lambda: ForbiddenPhrases([[1], []]),
        lambda: RequiredPhrases([[]], 0, 3),
        lambda: RequiredPhrases([[1, 0]], 0, 3),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(ValueError, match=r"token|positive"):
        make()


LENGTHS = st.lists(st.integers(0, 5), min_size=SOURCES, max_size=SOURCES)


@given(
    seed=SEEDS,
    kinds=st.lists(st.sampled_from(KINDS), max_size=4),
    beams=st.integers(1, 5),
    n_best=st.integers(1, 5),
    score=SCORES,
    longest=LENGTHS,
    shortest=LENGTHS,
)
@settings(deadline=None, max_examples=150)
def test_features_combined_at_random_are_a_naive_search(seed, kinds, beams, n_best, score, longest, shortest):
    chance, table = random.Random(seed), random_table(seed, VOCABULARY)
    constraints, edits = zip(*(kind(chance) for kind in kinds), strict=True) if kinds else ((), ())
    scorer = ConstrainedScorer(TableScorer(table, range(SOURCES)), constraints)
    found = beam_search(scorer, beams, longest, min(n_best, beams), score, shortest)
    late = only(lambda name, prefix, token: token or len(prefix) >= shortest[name])
    whole = edited(table, [*edits, late])
    for name, most in enumerate(longest):
        wanted = naive(whole, name, beams, most, min(n_best, beams), score, lambda *_: False)
        assert found[name] == close(wanted if most else [([], 0.0)])
