"""The coverage penalty against loops, and the attention that it reads against the model's own weighted sums."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.inference.generate import ModelEnsemble, generate
from s2s.model.transformer import _target_mask
from s2s.search.methods.beam import SearchSettings
from s2s.search.rescoring import coverage_penalty, covered
from s2s.vocabulary import sentence_pieces

few = settings(deadline=None, max_examples=30)
KINDS = ["dot", "dense", "random", "dot+random", "factorized_dense"]


def by_loops(rows, strength):
    """Equation 14 of Wu et al. 2016."""
    total = 0.0
    for column in range(len(rows[0])):
        covered = sum(row[column] / sum(row) for row in rows)
        total += math.log(min(covered, 1.0))
    return strength * total


@given(seed=st.integers(0, 2**32), strength=st.floats(0, 2))
@few
def test_the_penalty_is_the_sum_of_the_logs(seed, strength):
    chance = random.Random(seed)
    rows = [[chance.random() + 1e-3 for _ in range(chance.randint(3, 3))] for _ in range(chance.randint(1, 6))]
    assert coverage_penalty(torch.tensor(rows), strength) == pytest.approx(by_loops(rows, strength), abs=1e-5)
    assert coverage_penalty(torch.empty(2, 0), strength) == 0.0


def test_hypotheses_are_ranked_by_score_and_coverage():
    weights = [torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5], [0.5, 0.5]])]
    [rows] = covered([[([1], -1.0), ([1, 2], -1.5)]], lambda _: [weights], 1.0)
    assert [tokens for tokens, _ in rows] == [[1, 2], [1]]
    assert [score for _, score in rows] == pytest.approx([-1.5, -1.0 + math.log(0.9) + math.log(0.1)])
    assert covered([[]], lambda _: [[]], 1.0) == [[]]


@pytest.fixture(scope="module")
def vocabulary():
    return sentence_pieces.train(["a sentence to learn a few pieces from"], 300)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_attention_is_what_the_last_layer_sums_its_values_with(random_model, random_batch, kind):
    """Values that are 1 in one source column alone make the attention's output tell that column's weight."""
    slots = {} if kind == "dot" else {"source_slots": 12, "target_slots": 9}
    model, batch = random_model(1, attention=kind, **slots), random_batch([(9, 4), (5, 6), (12, 2)], seed=2)
    memory, last = model.encode(batch.source, batch.source_lengths), model.blocks[-1]
    found = model.source_attention(batch.target, memory)
    x, places = model._embed_target(batch.target, memory)
    mask = _target_mask(x, memory.mask, places)
    for block, cached in zip(model.blocks[:-1], memory.layers, strict=False):
        x, _ = block(x, mask, cached, places)
    weights = last.attention.weights(last._entry(x), mask, memory.layers[-1], places)
    at = 1 if kind == "dot" else 0
    keys = tuple(memory.layers[-1])
    own = last.attention.remember(last._entry(x))
    values = torch.cat([keys[at], own[at]], dim=2)
    summed = last.attention.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(summed, last.attention(last._entry(x), mask, memory.layers[-1], places)[0])
    torch.testing.assert_close(found, weights.mean(dim=1)[..., : batch.source.shape[1]])
    for row, length in enumerate(batch.source_lengths.tolist()):
        assert not found[row, :, length:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_adds_the_penalty_of_each_hypothesis_alone(random_model, vocabulary, kind):
    slots = {} if kind == "dot" else {"source_slots": 20, "target_slots": 8}
    model = random_model(3, vocabulary=vocabulary.size, attention=kind, **slots)
    model.output_bias.data[vocabulary.end] += 1
    chance = random.Random(0)
    sources = [[2, *(chance.randrange(4, vocabulary.size) for _ in range(n)), 3] for n in (4, 9, 0, 1, 17)]
    plain = SearchSettings(beams=4, n_best=4, length_penalty=0.6, batch=3)
    ranked = SearchSettings(beams=4, n_best=3, length_penalty=0.6, batch=3, coverage_penalty=0.4)
    before = generate(model, vocabulary, sources, plain, 6, lambda _: None)
    after = generate(model, vocabulary, sources, ranked, 6, lambda _: None)
    alone = ModelEnsemble(vocabulary, [model])
    for source, rows, found in zip(sources, before, after, strict=True):
        wanted = []
        for tokens, score in rows:
            [[weights]] = alone.attention([source], [6], [[(tokens, score)]])
            assert weights.shape == (min(len(tokens) + 1, 6), len(source) - 2)
            penalty = by_loops(weights.double().tolist(), 0.4) if weights.numel() else 0.0
            wanted.append((tokens, score + penalty))
        wanted.sort(key=lambda row: -row[1])
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted[:3]]
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted[:3]], abs=1e-4)
