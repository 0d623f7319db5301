"""Word dropout: what is left of a dropped word, and which words may be dropped."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate, count
from s2s.losses.passes import Passes
from s2s.mitigations.base import StepContext
from s2s.mitigations.prefix_noise import WordDropout
from s2s.randomness import Draws

END = 3


def context_of(batch, model=None, strength=1.0):
    passes = None if model is None else Passes(model, 0.0, model)
    return StepContext(passes, Draws(batch.seeds, "word_dropout"), count(batch), 0, strength)


def numbered(sizes):
    """A batch whose sources are 4, 5, 6 ... and whose targets are 10, 11, 12 ..."""
    return collate([([2, *range(4, source + 2), END], range(10, 10 + target)) for source, target in sizes], 0, END)


def near(count_found, trials, chance):
    return abs(count_found - trials * chance) <= 5 * math.sqrt(trials * chance * (1 - chance))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_dropped_word_leaves_its_position_and_segment(random_model, norm):
    model, batch = random_model(vocabulary=40, norm=norm), numbered([(5, 6), (7, 3), (3, 0)])
    noise, context = WordDropout(rate=0.5), context_of(batch)
    hits, fed = noise.hits(batch, context), noise.feed(batch, context)
    assert hits.any()
    assert not hits.all()
    words = model.words(batch.target).clone()
    words[hits] = 0.0
    assert torch.equal(model.words(fed.target), words)
    positions = batch.source_lengths[:, None] + torch.arange(batch.target.shape[1])
    places = model.embedding.positions.weight[positions] + model.embedding.segments.weight[1]
    embedded = model.embedding(model.words(fed.target), positions, segment=1)
    torch.testing.assert_close(embedded[hits], model.embedding.norm(places[hits]))
    assert torch.equal(fed.labels, batch.labels)
    memory = model.encode(batch.source, batch.source_lengths)
    expected = model.decode(batch.target, memory, words)
    torch.testing.assert_close(context_of(batch, model).passes.hidden(fed), expected)


@given(sizes=st.lists(st.tuples(st.integers(2, 7), st.integers(0, 9)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_word_dropout_of_all_drops_the_source_but_its_special_symbols(sizes):
    batch = numbered(sizes)
    fed = WordDropout(rate=1.0, scope="all").feed(batch, context_of(batch))
    for row, (source, target) in enumerate(sizes):
        padding = batch.source[row, source:].tolist()
        assert fed.source[row].tolist() == [2, *[-1] * (source - 2), END, *padding]
        assert fed.target[row, : target + 1].tolist() == [END, *[-1] * target]


def test_source_and_target_share_the_gate_and_are_dropped_apart_at_the_rate():
    batch = numbered([(10, 8)] * 4000)
    noise, context = WordDropout(rate=0.4, gate=0.5, scope="all"), context_of(batch, strength=0.5)
    fed = noise.feed(batch, context)
    opened = context.draws.uniform("gate", 1)[:, 0] < 0.5
    source, target = (fed.source[:, 1:-1] < 0), (fed.target[:, 1:] < 0)
    assert not source[~opened].any()
    assert not target[~opened].any()
    places = 8 * int(opened.sum())
    assert near(int(source[opened].sum()), places, 0.2)
    assert near(int((source & target)[opened].sum()), places, 0.2 * 0.2)
