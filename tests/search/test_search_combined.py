"""Constraints, lengths, scores and beams together, drawn at random, against a loop over one source at a time."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from search_tables import TableScorer, random_table
from test_search_constraints import KINDS, SEEDS, SOURCES, VOCABULARY, close, edited, only
from test_search_lengths import SCORES, naive

from s2s.search import ConstrainedScorer, beam_search

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
