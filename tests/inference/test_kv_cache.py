"""Shared columns and separate ones, with little room or much, against a search that recomputes every prefix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_scorer import END, UncachedScorer, assert_same, sources_of

from s2s.batch import pad
from s2s.inference import kv_cache
from s2s.inference.model_scorer import PrefixScorer
from s2s.search import beam_search, hypotheses, sample_search

LENGTH = 9
few = settings(deadline=None, max_examples=6)


@pytest.fixture(scope="module")
def ending_model(random_model):
    def make(seed, norm):
        model = random_model(seed, norm=norm)
        model.output_bias.data[END] += 1
        return model

    return make


def scorer_of(model, sources):
    return PrefixScorer(model, pad(sources, 0), torch.tensor([len(source) for source in sources]), END, END)


@pytest.mark.parametrize(("wide", "room"), [(16, 1), (16, 9), (2, 1), (0, 4)])
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5), beams=st.integers(1, 5), seed=st.integers(0, 99))
@few
def test_room_and_width_change_nothing(ending_model, wide, room, lengths, beams, seed):
    model, sources = ending_model(seed, "pre" if seed % 2 else "post"), sources_of(lengths, seed)
    longest = [LENGTH - place for place in range(len(sources))]  # so that sources leave one by one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "WIDE", wide)
        patch.setattr(kv_cache, "ROOM", room)
        found = beam_search(scorer_of(model, sources), beams, longest, beams)
    wanted = [
        beam_search(UncachedScorer(model, source), beams, length, beams)[0]
        for source, length in zip(sources, longest, strict=True)
    ]
    assert_same(found, wanted)


def test_columns_that_no_one_sees_make_room(ending_model):
    model, sources = ending_model(0, "pre"), sources_of([7, 4], 0)
    scorer = scorer_of(model, sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "ROOM", 4)
        _, state = scorer.step(torch.full((2,), END), scorer.start())
        state = scorer.reorder(state, torch.tensor([0, 0, 1, 1]))
        for token in range(5, 13):  # the second hypothesis always dies
            _, state = scorer.step(torch.tensor([token, 4, token, 4]), state)
            state = scorer.reorder(state, torch.tensor([0, 0, 2, 2]))
    assert state.buffer.columns - state.buffer.source <= 2 * (9 + 2)
    log_probs, _ = scorer.step(torch.tensor([13, 14, 13, 14]), state)
    for row, (source, last) in enumerate([(0, 13), (0, 14), (1, 13), (1, 14)]):
        prefixes = [[END, *range(5, 13)]]
        alone, _ = UncachedScorer(model, sources[source]).step(torch.tensor([last]), prefixes)
        torch.testing.assert_close(log_probs[row], alone[0])


def test_many_samples_of_one_source_have_the_forward_s_scores(ending_model):
    model, sources = ending_model(3, "pre"), sources_of([9, 4], 3)
    samples = kv_cache.WIDE + 2
    found = sample_search(scorer_of(model, sources), samples, 5, [1, 2])
    alone = [
        sample_search(scorer_of(model, [source]), samples, 5, [seed])[0]
        for source, seed in zip(sources, (1, 2), strict=True)
    ]
    for rows, others in zip(found, alone, strict=True):
        assert [sample.tokens for sample in rows] == [sample.tokens for sample in others]


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 700),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
    ties=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_the_largest_entries_are_topk_s(rows, columns, count, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, columns, generator=generator)
    table = (table * 2).round() if ties else table
    table[:, :: seed + 2] = -torch.inf
    count = min(count, columns)
    values, places = hypotheses.largest(table, count)
    assert torch.equal(values, table.topk(count).values)
    assert torch.equal(table.gather(1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())
    table[-1, columns // 2] = torch.nan
    assert hypotheses.largest(table, count)[0].isnan()[-1, 0]
