"""Model and search errors and Su's gap: on the article's toy table, by enumeration, and of models."""

import math
from itertools import product

import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative

from s2s.batch import collate
from s2s.diagnose.search_errors import Gold, Point, curse, gold_of, outcome, score_gold, search_curve
from s2s.diagnose.traces import trace
from s2s.inference.model_scorer import PrefixScorer
from s2s.losses.passes import target_log_probs
from s2s.search import beam_search


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


@pytest.mark.parametrize(("beams", "gap"), [(1, 0.0), (2, 1.0)])
def test_su_s_gap_of_the_toy_table_is_0_at_one_beam_and_1_at_two(beams, gap):
    scorer = toy(2)
    golds = score_gold(scorer, [[1, 2], [3, 4]])
    assert [gold.locally_right for gold in golds] == [True, False]
    assert [math.exp(gold.score) for gold in golds] == pytest.approx([0.33, 0.36])
    found = outcome(golds, beam_search(scorer, beams, 4), 4)
    assert (found.sentences, found.locally_right, found.su_gap) == (2, 1, gap)
    assert (found.model_errors, found.search_errors) == ((0, 0.5) if beams == 1 else (0.5, 0))


def test_an_exhaustive_beam_makes_no_search_errors_and_one_beam_no_gap():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        prefixes = [prefix for length in range(4) for prefix in product((1, 2), repeat=length)]
        rows = {prefix: torch.rand(3, generator=generator).tolist() for prefix in prefixes}
        targets = [list(prefix) for prefix in prefixes if len(prefix) < 4]
        scorer = TableScorer(len(targets), rows, [1, 0, 0])
        golds = score_gold(scorer, targets)
        for gold in golds:
            whole = [*gold.ids, 0]
            steps = [rows[tuple(whole[:place])] for place in range(len(whole))]
            chances = [step[token] / sum(step) for step, token in zip(steps, whole, strict=True)]
            assert math.exp(gold.score) == pytest.approx(math.prod(chances))
            likeliest = all(step[token] == max(step) for step, token in zip(steps, whole, strict=True))
            assert gold.locally_right == likeliest
        assert outcome(golds, beam_search(scorer, 81, 5), 5).search_errors == 0
        greedy = outcome(golds, beam_search(scorer, 1, 5), 5)
        assert greedy.su_gap == 0 or math.isnan(greedy.su_gap)


def test_texts_at_the_limit_are_not_judged():
    golds = [Gold([1], -1.0, True), Gold([1, 2, 3], -1.0, True), Gold([2], -1.0, True), Gold([2], -1.0, False)]
    found = [[([1, 2, 3], -0.5)], [([1], -0.5)], [], [([2], -1.00001)]]
    assert outcome(golds, found, 3)[:4] == (1, 0, 0, 0)


def test_gold_is_scored_alike_by_steps_by_traces_and_in_one_pass(random_model):
    model, pairs = random_model(4), pairs_of([3, 0, 7, 5], 4)
    vocabulary = TinyVocabulary()
    batch = collate(pairs, 0, 3)
    scorer = PrefixScorer(model, batch.source, batch.source_lengths, 3, 3)
    stepped, traced = score_gold(scorer, [target for _, target in pairs]), gold_of(trace(model, vocabulary, pairs))
    sums = target_log_probs(model, batch).sum(dim=1).tolist()
    for one, other, whole in zip(stepped, traced, sums, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4) == pytest.approx(whole, abs=1e-4)
        assert one[::2] == other[::2]


def test_a_curve_tells_each_beam_of_a_model(random_model):
    model, pairs = talkative(random_model(4)), pairs_of([3, 5, 2], 4)
    greedy = [beam_search(one_scorer(model, source), 1, 6)[0] for source, _ in pairs]
    pairs = [(source, best[0][0]) for (source, _), best in zip(pairs, greedy, strict=True)]

    def exact(texts, references):
        return sum(text == reference for text, reference in zip(texts, references, strict=True))

    for penalty in (0.0, 1.0):
        first, *_, last = search_curve(model, TinyVocabulary(), pairs, exact, 6, (1, 2, 8), penalty)
        assert (first.beams, first.quality, first.length_ratio, last.beams) == (1, 3, 1, 8)
        assert first.outcome.model_errors == first.outcome.search_errors == first.outcome.su_gap == 0
        assert first.outcome.locally_right == first.outcome.sentences == sum(len(ids) < 6 for _, ids in pairs) > 0


def one_scorer(model, source):
    return PrefixScorer(model, torch.tensor([source]), torch.tensor([len(source)]), 3, 3)


def test_the_curse_is_what_the_widest_beam_loses():
    points = [Point(beams, quality, 1.0, 0.0, None) for beams, quality in ((1, 20.0), (64, 15.0), (4, 25.0))]
    assert curse(points) == (10.0, pytest.approx(0.4))
