"""Oracles, and the accumulated error against loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative

from s2s.batch import collate
from s2s.data.synthetic import Transduction
from s2s.diagnose.oracle import (
    Divergences,
    accumulate,
    distributions,
    divergence,
    excess,
    measure_divergences,
    model_oracle,
    ratio,
    statistics,
    task_oracle,
)
from s2s.diagnose.traces import sample_texts
from s2s.errors import UserError
from s2s.metrics.bootstrap import bootstrap
from s2s.vocabulary.sentence_pieces import train

TASK = Transduction(letters=3, modes=2, noise=0.2, switch=0.3, stay=0.25)


def test_the_error_is_a_loop_over_texts_alive_on_both_sides():
    generator = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        table = generator.random((9, 6))
        for row, length in enumerate(generator.integers(1, 7, size=9)):
            table[row, length:] = np.nan
        sides.append(table)
    accumulation = accumulate(Divergences(*sides, np.arange(9) // 3), least=2)
    for length, texts, error, percent in zip(range(1, 7), *accumulation, strict=False):
        alive = [row for row in range(9) if all(not math.isnan(side[row, length - 1]) for side in sides)]
        drawn, data = (sum(side[row, :length].sum() for row in alive) for side in sides)
        assert (texts, error, percent) == (
            len(alive),
            pytest.approx(length * drawn / data),
            pytest.approx((drawn / data - 1) * 100),
        )
        rows = statistics(Divergences(*sides, np.arange(9) // 3), length)
        assert rows.shape == (3, 2)
        assert bootstrap(rows, excess, samples=20).estimate == pytest.approx(percent)
    assert len(accumulation.texts) == sum(
        sum(np.isfinite(sides[0][:, column]) & np.isfinite(sides[1][:, column])) >= 2 for column in range(6)
    )
    assert not statistics(Divergences(*sides, np.arange(9)), 7).any()


def test_nothing_over_nothing_is_no_excess():
    assert ratio(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])).tolist() == [1, math.inf, 0.5]


def test_a_divergence_is_a_sum_over_words():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.25, 0.75, 0.0], [0.1, 0.8, 0.1]])
    wanted = [sum(a * math.log(a / b) for a, b in zip(*rows, strict=True) if a) for rows in zip(p, q, strict=True)]
    with np.errstate(divide="ignore"):
        assert divergence(np.log(p), np.log(q)) == pytest.approx(wanted)


def test_distributions_are_those_of_one_pair_at_a_time(random_model):
    model, pairs = random_model(6), pairs_of([3, 0, 5], 6)
    for index, log_probs in distributions(model, TinyVocabulary(), pairs, 2):
        batch = collate([pairs[index]], 0, 3)
        with torch.no_grad():
            hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        np.testing.assert_allclose(log_probs, model.logits(hidden)[0].log_softmax(dim=-1).detach(), atol=1e-9)


def test_a_model_that_is_its_own_oracle_has_no_divergence_and_another_one_has(random_model):
    model, other = talkative(random_model(8)), random_model(9)
    pairs, vocabulary = pairs_of([4, 6, 3], 8), TinyVocabulary()
    nothing = measure_divergences(model, vocabulary, model_oracle([model], vocabulary), pairs, 6, samples=2)
    assert np.nanmax(np.abs(np.concatenate([nothing.rollouts, nothing.data], axis=1))) < 1e-9
    divergences = measure_divergences(model, vocabulary, model_oracle([other, model], vocabulary), pairs, 6, samples=2)
    assert divergences.sources.tolist() == [0, 0, 1, 1, 2, 2]
    assert (~np.isnan(divergences.data)).sum(axis=1).tolist() == [5, 5, 7, 7, 4, 4]
    texts = [text for row in sample_texts(model, vocabulary, pairs, 6, 2) for text in row]
    assert (~np.isnan(divergences.rollouts)).sum(axis=1).tolist() == [len(text.ids) + text.ended for text in texts]
    source, ids = pairs[1][0], texts[2].ids
    first, second = (next(distributions(which, vocabulary, [(source, ids)]))[1] for which in (model, other))
    mixed = np.log((np.exp(first) + np.exp(second)) / 2)
    kl = (np.exp(mixed) * (mixed - first)).sum(axis=1)[: len(ids) + texts[2].ended]
    assert divergences.rollouts[2][: len(kl)] == pytest.approx(kl)
    assert accumulate(divergences, least=1).texts[0] == 6


def test_the_task_is_an_oracle_over_a_vocabulary_s_ids():
    pairs = replace(TASK, shortest=3, longest=6).pairs(200)
    vocabulary = train((text for pair in pairs for text in pair), 300)
    source, target = vocabulary.source_ids(vocabulary.encode("c a b")), vocabulary.encode("B C A")
    log_probs = task_oracle(TASK, vocabulary)(source, target)
    known = TASK.along(["c", "a", "b"], ["B", "C", "A"])
    ids = [vocabulary.encode(word)[0] for word in "ABC"]
    assert log_probs.shape == (4, vocabulary.size)
    assert log_probs[:, [*ids, vocabulary.end]] == pytest.approx(known)
    assert np.exp(log_probs).sum(axis=1) == pytest.approx(1)
    with pytest.raises(UserError, match="'D'"):
        task_oracle(Transduction(letters=4), vocabulary)
    with pytest.raises(UserError, match="an example is not of the run's task"):
        task_oracle(TASK, vocabulary)(vocabulary.source_ids([]), target)
