"""Model and search errors and Su's gap: on the article's toy table, by enumeration, and of models."""

import math
from itertools import product

import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative

from s2s.batch import collate
from s2s.diagnose.search_errors import Gold, golds, judge
from s2s.diagnose.traces import trace
from s2s.inference.generate import generate
from s2s.losses.passes import target_log_probs
from s2s.search import beam_search
from s2s.search.methods.beam import SearchSettings


class TableScorer:
    """Rows of weights by prefix, the same for every source; end is 0."""

    begin, end = 5, 0

    def __init__(self, sources, rows, otherwise):
        self.sources, self.rows, self.otherwise = sources, rows, otherwise

    def start(self):
        return torch.zeros(self.sources, 0, dtype=torch.long)

    def step(self, tokens, state):
        state = torch.cat([state, tokens[:, None]], dim=1)
        weights = [self.rows.get(tuple(prefix[1:]), self.otherwise) for prefix in state.tolist()]
        rows = torch.tensor(weights, dtype=torch.float64)
        return (rows / rows.sum(dim=1, keepdim=True)).log(), state

    def reorder(self, state, index):
        return state[index]


def toy(sources):
    """The article's example: the likeliest tokens are 1, 2 at 0.33, but 3, 4 are likelier together, at 0.36."""
    rows = {(): [0, 0.6, 0, 0.4, 0], (1,): [0, 0, 0.55, 0, 0.45], (3,): [0, 0, 0.1, 0, 0.9]}
    return TableScorer(sources, rows, [1, 0, 0, 0, 0])


def best(scorer, beams, max_length):
    return [hypotheses[0] for hypotheses in beam_search(scorer, beams, max_length)]


def counts(verdicts):
    """Sentences that are judged, and those with a model error, a search error, locally right gold and Su's gap."""
    return tuple(int(marks.sum()) for marks in verdicts)


@pytest.mark.parametrize(("beams", "wanted"), [(1, (2, 0, 1, 1, 0)), (2, (2, 1, 0, 1, 1))])
def test_su_s_gap_of_the_toy_table_is_0_at_one_beam_and_1_at_two(beams, wanted):
    gold = [Gold([1, 2], math.log(0.33), True), Gold([3, 4], math.log(0.36), False)]
    assert counts(judge(gold, best(toy(2), beams, 4), 4)) == wanted


def test_an_exhaustive_beam_makes_no_search_errors_and_one_beam_no_gap():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        prefixes = [prefix for length in range(4) for prefix in product((1, 2), repeat=length)]
        rows = {prefix: torch.rand(3, generator=generator).tolist() for prefix in prefixes}
        gold = []
        for prefix in prefixes:
            whole = [*prefix, 0]
            steps = [rows[tuple(whole[:number])] for number in range(len(whole))]
            chances = [step[token] / sum(step) for step, token in zip(steps, whole, strict=True)]
            likeliest = all(step[token] == max(step) for step, token in zip(steps, whole, strict=True))
            gold.append(Gold(list(prefix), math.log(math.prod(chances)), likeliest))
        scorer = TableScorer(len(gold), rows, [1, 0, 0])
        assert not judge(gold, best(scorer, 81, 5), 5).search_errors.any()
        assert not judge(gold, best(scorer, 1, 5), 5).su_gap.any()


def test_texts_at_the_limit_are_not_judged():
    gold = [Gold([1], -1.0, True), Gold([1, 2, 3], -1.0, True), Gold([2], -1.0, False)]
    texts = [([1, 2, 3], -0.5), ([1], -0.5), ([2], -1.00001)]
    assert counts(judge(gold, texts, 3)) == (1, 0, 0, 0, 0)


def test_gold_is_scored_alike_by_traces_and_in_one_pass(random_model):
    model, pairs = random_model(4), pairs_of([3, 0, 7, 5], 4)
    traced = golds(trace(model, TinyVocabulary(), pairs))
    sums = target_log_probs(model, collate(pairs, 0, 3)).sum(dim=1).tolist()
    for gold, (_, target), wanted in zip(traced, pairs, sums, strict=True):
        assert gold.ids == target
        assert gold.score == pytest.approx(wanted, abs=1e-4)


def test_a_model_s_greedy_texts_are_locally_right_and_without_errors(random_model):
    model, vocabulary = talkative(random_model(4)), TinyVocabulary()
    sources = [source for source, _ in pairs_of([3, 5, 2], 4)]

    def searched(beams):
        search = SearchSettings(beams=beams, batch=1)
        return [hypotheses[0] for hypotheses in generate(model, vocabulary, sources, search, 6, lambda _: None)]

    greedy = searched(1)
    pairs = [(source, ids) for source, (ids, _) in zip(sources, greedy, strict=True)]
    gold = golds(trace(model, vocabulary, pairs))
    ended = sum(len(ids) < 6 for ids, _ in greedy)
    assert counts(judge(gold, greedy, 6)) == (ended, 0, 0, ended, 0)
    assert ended > 0
    assert not judge(gold, searched(8), 6).search_errors.any()
