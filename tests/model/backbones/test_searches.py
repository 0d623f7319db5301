"""Searches over models of ``transformers`` find what the library's own ``generate`` finds, in a batch of any rows."""

import pytest
import torch
from foreign_models import FAMILIES, tiny
from library_search import assert_same, before_end
from transformers import GenerationConfig

from s2s.batch import pad
from s2s.inference.model_scorer import PrefixScorer
from s2s.search import beam_search, sample_search

pytestmark = pytest.mark.slow
END, BEGIN = 1, 2
SOURCES = [[5, 6, 7, 4, 3], [4], [8, 3, 8]]


def scorer(model, sources=SOURCES):
    return PrefixScorer(model, pad(sources, 0), torch.tensor([len(row) for row in sources]), BEGIN, END)


def theirs(model, beams, longest, n_best, sources=SOURCES, **rules):
    """The library's hypotheses of each source alone, with their scores."""
    inner, rows = model.inner, []
    inner.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=END, decoder_start_token_id=BEGIN)
    causal = model.shape.backbone == "causal_lm"
    for source in sources:
        ids = torch.tensor([[*source, BEGIN] if causal else source])
        out = inner.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=beams,
            num_return_sequences=n_best,
            max_new_tokens=longest,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **rules,
        )
        new = out.sequences[:, ids.shape[1] if causal else 1 :].tolist()
        scores = out.sequences_scores.tolist() if beams > 1 else [None]
        rows.append([(before_end(row, END), score) for row, score in zip(new, scores, strict=True)])
    return rows


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_greedy_search(family):
    model = tiny(family)
    found = beam_search(scorer(model), 1, 8)
    assert [rows[0][0] for rows in found] == [rows[0][0] for rows in theirs(model, 1, 8, 1)]


@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_beams(family, penalty):
    # With ends anywhere the two stop by different rules, unless the beams are as wide as the space of hypotheses.
    model = tiny(family, vocabulary=9)
    forced = theirs(model, 4, 6, 4, length_penalty=penalty, min_new_tokens=6, early_stopping=False)
    small = tiny(family, vocabulary=5)
    sources = [[3, 4, 4, 3], [4], [3, 3]]
    wide = theirs(small, 100, 3, 4, sources, length_penalty=penalty, early_stopping="never")
    assert_same(beam_search(scorer(model), 4, 6, 4, penalty, 6), forced)
    assert_same(beam_search(scorer(small, sources), 100, 3, 4, penalty), wide)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_sources_that_leave_one_by_one_change_nothing_for_the_others(family):
    model = tiny(family)
    longest = [8, 3, 5]
    together = beam_search(scorer(model), 3, longest, 3, min_length=longest)
    alone = [
        beam_search(scorer(model, [source]), 3, length, 3, min_length=length)[0]
        for source, length in zip(SOURCES, longest, strict=True)
    ]
    assert_same(together, alone)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_source_is_copied_once_for_its_hypotheses(family):
    searched, memories = scorer(tiny(family)), []
    _, state = searched.step(torch.full((3,), BEGIN), searched.start())
    for index in ([0, 0, 1, 1, 2, 2], [1, 0, 2, 2, 5, 4], [1, 1, 2, 3, 4, 5], [2, 3, 5, 4], [0, 1, 3, 3]):
        _, state = searched.step(torch.tensor(index) + 3, searched.reorder(state, torch.tensor(index)))
        memories.append(state.memory)
    # Three steps with three sources, and two after one has left.
    assert len({id(memory) for memory in memories}) == 2
    assert [len(memory.lengths) for memory in memories] == [6, 6, 6, 4, 4]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_samples_are_drawn_from_the_models_own_distribution(family):
    """Along drawn texts, every step's distribution is that of a whole forward of the text so far."""
    model, seen = tiny(family), []

    class Recording(PrefixScorer):
        def step(self, tokens, state):
            log_probs, state = super().step(tokens, state)
            seen.append(log_probs)
            return log_probs, state

    lengths = torch.tensor([len(row) for row in SOURCES])
    recording = Recording(model, pad(SOURCES, 0), lengths, BEGIN, END)
    found = sample_search(recording, samples=3, max_length=5, seeds=[1, 2, 3])
    assert any(len(tokens) > 1 for rows in found for tokens, *_ in rows)
    for source, rows in zip(SOURCES, found, strict=True):
        for tokens, score, *_ in rows:
            labels = [*tokens, END][:5]
            target = torch.tensor([[BEGIN, *labels[:-1]]])
            if model.shape.backbone == "causal_lm":
                scores = model.inner(input_ids=torch.cat([torch.tensor([source]), target], 1)).logits[0, len(source) :]
            else:
                scores = model.inner(input_ids=torch.tensor([source]), decoder_input_ids=target).logits[0]
            steps = scores.log_softmax(dim=-1)[torch.arange(len(labels)), torch.tensor(labels)]
            assert score == pytest.approx(float(steps.sum()), abs=1e-5)
    whole = scores_of_first(model)
    torch.testing.assert_close(seen[0].double(), whole, rtol=1e-5, atol=1e-5)


def scores_of_first(model):
    rows = []
    for source in SOURCES:
        if model.shape.backbone == "causal_lm":
            rows.append(model.inner(input_ids=torch.tensor([[*source, BEGIN]])).logits[0, -1])
        else:
            begin = torch.tensor([[BEGIN]])
            rows.append(model.inner(input_ids=torch.tensor([source]), decoder_input_ids=begin).logits[0, -1])
    return torch.stack(rows).log_softmax(dim=-1)
