"""The searches over the cached model, many sources at once, against the log-probabilities of training's own forward."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate, pad
from s2s.inference.model_scorer import PrefixScorer
from s2s.losses.passes import target_log_probs
from s2s.search import (
    ConstrainedScorer,
    Ensemble,
    NoRepeatedNgram,
    beam_search,
    diverse_beam_search,
    greedy_stream,
    sample_search,
    shrinking_beam_search,
    token_scores,
)

END, LENGTH = 3, 6
LENGTHS = st.lists(st.integers(2, 20), min_size=1, max_size=4)
few = settings(deadline=None, max_examples=8)


def scorer_of(model, sources):
    return PrefixScorer(model, pad(sources, 0), torch.tensor([len(source) for source in sources]), END, END)


def sources_of(lengths, seed):
    drawn = random.Random(seed)
    return [[2, *(drawn.randrange(4, 23) for _ in range(length - 2)), END] for length in lengths]


@torch.no_grad()
def forced(model, source, tokens):
    """The log-probabilities of a target's tokens and end; none of an end behind ``LENGTH`` tokens."""
    return target_log_probs(model, collate([(source, tokens)], 0, END))[0, : min(len(tokens) + 1, LENGTH)].tolist()


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
@few
def test_samples_and_token_scores_are_the_forward_s(random_model, lengths, seed):
    model, sources = random_model(seed), sources_of(lengths, seed)
    model.output_bias.data[END] += 1
    seeds = [seed + place for place in range(len(sources))]
    found = sample_search(scorer_of(model, sources), 3, LENGTH, seeds)
    scores = token_scores(scorer_of(model, sources), [[tokens for tokens, *_ in rows] for rows in found], LENGTH)
    for place, (source, rows) in enumerate(zip(sources, found, strict=True)):
        [alone] = sample_search(scorer_of(model, [source]), 3, LENGTH, [seeds[place]])
        assert [sample.tokens for sample in alone] == [sample.tokens for sample in rows]
        for (tokens, score, _), values in zip(rows, scores[place], strict=True):
            wanted = forced(model, source, tokens)
            assert values == pytest.approx(wanted, abs=1e-4)
            assert score == pytest.approx(sum(wanted), abs=1e-4)


@given(lengths=LENGTHS, seed=st.integers(0, 1000))
@few
def test_all_searches_of_one_beam_agree(random_model, lengths, seed):
    model, sources = random_model(seed), sources_of(lengths, seed)
    model.output_bias.data[END] += 1
    greedy = [rows[0] for rows in beam_search(scorer_of(model, sources), 1, LENGTH)]
    streamed = list(greedy_stream(scorer_of(model, sources), LENGTH))
    for place, (tokens, score) in enumerate(greedy):
        assert [token for source, token in streamed if source == place] == tokens
        assert score == pytest.approx(sum(forced(model, sources[place], tokens)), abs=1e-4)
    shrinking = shrinking_beam_search(scorer_of(model, sources), 1, LENGTH)
    twice = diverse_beam_search(scorer_of(model, sources), 2, 1, LENGTH, 0.0)
    both = beam_search(Ensemble([scorer_of(model, sources), scorer_of(model, sources)]), 1, LENGTH)
    for others in (shrinking, [rows[1] for rows in twice], both):
        assert [rows[0][0] for rows in others] == [tokens for tokens, _ in greedy]


@given(lengths=LENGTHS, seed=st.integers(0, 1000), beams=st.integers(1, 3))
@few
def test_constraints_move_with_the_model_s_rows(random_model, lengths, seed, beams):
    model, sources = random_model(seed), sources_of(lengths, seed)
    found = beam_search(ConstrainedScorer(scorer_of(model, sources), [NoRepeatedNgram(1)]), beams, LENGTH, beams)
    for source, rows in zip(sources, found, strict=True):
        for tokens, score in rows:
            assert len(set(tokens)) == len(tokens)
            assert score == pytest.approx(sum(forced(model, source, tokens)), abs=1e-4)
