"""The cached scorer, many sources at once, against a search that recomputes every prefix of one source."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate, pad
from s2s.inference.generate import generate
from s2s.inference.model_scorer import PrefixScorer
from s2s.losses.passes import target_log_probs
from s2s.search import beam_search
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import sentence_pieces

END, LENGTH = 3, 7
LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=5)
SEEDS = st.integers(0, 1000)
PENALTIES = st.sampled_from([0.0, 0.7, -1.0])
norms = pytest.mark.parametrize("norm", ["pre", "post"])
few = settings(deadline=None, max_examples=12)


class UncachedScorer:
    """Encodes and decodes each whole prefix anew; its state is the prefixes."""

    def __init__(self, model, source):
        self.model, self.source = model, torch.tensor([source])
        self.sources, self.begin, self.end = 1, END, END

    def start(self):
        return [[]]

    def step(self, tokens, state):
        state = [[*prefix, token] for prefix, token in zip(state, tokens.tolist(), strict=True)]
        memories = [self.model.encode(self.source, torch.tensor([self.source.shape[1]])) for _ in state]
        rows = [self.model.decode(torch.tensor([p]), memory) for p, memory in zip(state, memories, strict=True)]
        return torch.cat([self.model.logits(row[:, -1]).float().log_softmax(dim=-1) for row in rows]), state

    def reorder(self, state, index):
        return [state[row] for row in index.tolist()]


@pytest.fixture(scope="module")
def ending_model(random_model):
    """A random model that ends some of its hypotheses before they are full."""

    def make(seed, norm, **shape):
        model = random_model(seed, norm=norm, **shape)
        model.output_bias.data[END] += 1
        return model

    return make


def sources_of(lengths, seed, vocabulary=23):
    drawn = random.Random(seed)
    return [[2, *(drawn.randrange(4, vocabulary) for _ in range(length - 2)), END] for length in lengths]


def search(model, sources, *arguments):
    lengths = torch.tensor([len(source) for source in sources])
    return beam_search(PrefixScorer(model, pad(sources, 0), lengths, END, END), *arguments)


def assert_same(found, expected, tie=0.0):
    """Equal hypotheses, but for those whose scores are as near as ``tie``."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        for (tokens, score), (other, other_score) in zip(ours, theirs, strict=True):
            assert math.isclose(score, other_score, abs_tol=1e-4)
            assert tokens == other or abs(score - other_score) < tie


@norms
@given(lengths=LENGTHS, beams=st.integers(1, 4), penalty=PENALTIES, seed=SEEDS, data=st.data())
@few
def test_the_cached_search_of_many_is_the_uncached_search_of_each(
    ending_model, norm, lengths, beams, penalty, seed, data
):
    model, sources = ending_model(seed, norm), sources_of(lengths, seed)
    n_best, least = data.draw(st.integers(1, beams)), data.draw(st.integers(0, 3))
    rules = beams, LENGTH, n_best, penalty, least
    found = search(model, sources, *rules)
    assert_same(found, [beam_search(UncachedScorer(model, source), *rules)[0] for source in sources])
    order = data.draw(st.permutations(range(len(sources))))
    assert_same(search(model, [sources[row] for row in order], *rules), [found[row] for row in order])


@norms
def test_float32_finds_the_same_but_for_ties(ending_model, norm):
    for seed in range(12):
        model, sources = ending_model(seed, norm, dtype=torch.float32), sources_of([30, 2, 11], seed)
        expected = [beam_search(UncachedScorer(model, source), 3, LENGTH, 3)[0] for source in sources]
        assert_same(search(model, sources, 3, LENGTH, 3), expected, tie=1e-5)


@norms
@given(lengths=LENGTHS, beams=st.integers(1, 4), seed=SEEDS)
@few
@torch.no_grad()
def test_a_score_is_the_sum_of_the_target_s_log_probabilities(ending_model, norm, lengths, beams, seed):
    model, sources = ending_model(seed, norm), sources_of(lengths, seed)
    found = search(model, sources, beams, LENGTH, beams)
    pairs = [(source, row) for source, rows in zip(sources, found, strict=True) for row in rows]
    log_probs = target_log_probs(model, collate([(source, tokens) for source, (tokens, _) in pairs], 0, END))
    for row, (_, (tokens, score)) in zip(log_probs, pairs, strict=True):
        # A hypothesis of the greatest length counts without an end.
        assert math.isclose(row[: min(len(tokens) + 1, LENGTH)].sum(), score, abs_tol=1e-4)
        assert not row[len(tokens) + 1 :].any()


@pytest.fixture(scope="module")
def vocabulary():
    return sentence_pieces.train(["a sentence to learn a few pieces from"], 300)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@norms
def test_generation_keeps_the_order_of_its_sources(ending_model, vocabulary, norm, size):
    model = ending_model(0, norm, vocabulary=vocabulary.size)
    sources, advanced = sources_of([9, 2, 30, 4, 9, 17, 2], 0, vocabulary.size), []
    rules = SearchSettings(beams=3, n_best=2, min_length=2, length_penalty=0.5, batch=size)
    found = generate(model, vocabulary, sources, rules, LENGTH, advanced.append)
    assert_same(found, [search(model, [source], 3, LENGTH, 2, 0.5, 2)[0] for source in sources])
    assert sum(advanced) == len(sources)
    assert max(advanced) <= size
    assert generate(model, vocabulary, [], rules, LENGTH, advanced.append) == []
    for hypotheses in generate(model, vocabulary, sources, rules, 1, advanced.append):  # shorter than min_length
        assert [len(tokens) for tokens, _ in hypotheses] == [1, 1]


@norms
def test_reorder_moves_the_rows_of_cache_and_memory_together(ending_model, norm):
    model, sources = ending_model(0, norm), sources_of([5, 9, 3], 0)
    scorer = PrefixScorer(model, pad(sources, 0), torch.tensor([5, 9, 3]), END, END)
    _, state = scorer.step(torch.full((3,), END), scorer.start())
    state = scorer.reorder(state, torch.tensor([0, 0, 1, 1, 2, 2]))
    _, state = scorer.step(torch.tensor([4, 5, 6, 7, 8, 9]), state)
    fewer, fewer_state = scorer.step(torch.tensor([10, 11, 12, 13]), scorer.reorder(state, torch.tensor([1, 0, 5, 5])))
    last, _ = scorer.step(torch.tensor([14, 15]), scorer.reorder(fewer_state, torch.tensor([3, 2])))
    prefixes = [(0, [5, 10]), (0, [4, 11]), (2, [9, 12]), (2, [9, 13]), (2, [9, 13, 14]), (2, [9, 12, 15])]
    for log_probs, (source, prefix) in zip(torch.cat([fewer, last]), prefixes, strict=True):
        alone, _ = UncachedScorer(model, sources[source]).step(torch.tensor(prefix[-1:]), [[END, *prefix[:-1]]])
        torch.testing.assert_close(log_probs, alone[0])
    for unequal in ([0, 0, 2], [0, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match="same number of rows"):
            scorer.reorder(state, torch.tensor(unequal))
