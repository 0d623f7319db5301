"""The task's true conditional against enumeration of its chain, and accumulated error against loops."""

import math
from collections import Counter
from itertools import product
from random import Random

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


def chances_of(source, target, ended):
    """The chance that a text begins with, or is, a target: a sum over all paths of the chain."""
    total, letters = 0.0, "abc"
    for path in product(product(range(len(source)), range(TASK.modes)), repeat=len(target)):
        chance = 1 / TASK.modes if path and path[0][0] == 0 else 0.0
        for step, ((place, mode), word) in enumerate(zip(path, target, strict=True)):
            right = (letters.index(source[place]) + mode) % 3 == "ABC".index(word)
            chance *= TASK.noise / 3 + (1 - TASK.noise) * right
            if step + 1 < len(path):
                after, turned = path[step + 1]
                chance *= {0: TASK.stay, 1: 1 - TASK.stay}.get(after - place, 0.0)
                chance *= 1 - TASK.switch if turned == mode else TASK.switch
        if ended:
            chance *= (1 - TASK.stay) * (path[-1][0] == len(source) - 1) if path else 0.0
        total += chance
    return total if target else 1.0 - ended


def test_the_conditional_is_the_enumeration_of_all_paths():
    for source in ("a", "cab"):
        for length in range(4):
            for target in product("ABC", repeat=length):
                prefix = chances_of(source, target, False)
                wanted = [chances_of(source, (*target, word), False) / prefix for word in "ABC"]
                wanted.append(chances_of(source, target, True) / prefix)
                assert np.exp(TASK.log_probs(source, target)) == pytest.approx(wanted, abs=1e-12)


def test_every_prefix_has_a_distribution_and_all_prefixes_of_a_text_are_taken_at_once():
    task, random = Transduction(letters=5, modes=3), Random(0)
    for _ in range(10):
        source = random.choices("abcde", k=random.randint(1, 6))
        target = random.choices(["A", "B", "C", "D", "E", "?"], k=random.randint(0, 20))
        along = task.along(source, target)
        assert np.exp(along).sum(axis=1) == pytest.approx(1)
        for place in range(len(target) + 1):
            assert along[place] == pytest.approx(task.log_probs(source, target[:place]))


def test_samples_of_the_task_follow_its_conditional():
    source, random, size = ["a", "c"], Random(1), 20_000
    drawn = Counter(tuple(TASK.sample(source, random)) for _ in range(size))
    for target, seen in drawn.most_common(12):
        along = TASK.along(source, target)
        numbers = [*("ABC".index(word) for word in target), 3]
        chance = math.exp(sum(row[number] for row, number in zip(along, numbers, strict=True)))
        assert seen / size == pytest.approx(chance, abs=4.5 * math.sqrt(chance / size))


def test_pairs_are_texts_of_the_lengths_asked_and_a_function_of_the_seed():
    pairs = TASK.pairs(50, 2, 4, seed=3)
    assert pairs == TASK.pairs(50, 2, 4, seed=3) != TASK.pairs(50, 2, 4, seed=4)
    assert {len(source.split()) for source, _ in pairs} == {2, 3, 4}
    assert {word for _, target in pairs for word in target.split()} == set("ABC")


@pytest.mark.parametrize("keys", [{"letters": 1}, {"modes": 9}, {"noise": 0.0}, {"stay": 1.0}])
def test_chances_that_make_a_prefix_impossible_are_refused(keys):
    with pytest.raises(UserError, match=next(iter(keys))):
        Transduction(**keys)
    with pytest.raises(ValueError, match="letter"):
        TASK.along([], [])


def test_the_error_is_a_loop_over_texts_alive_on_both_sides():
    generator = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        table = generator.random((9, 6))
        for row, length in enumerate(generator.integers(1, 7, size=9)):
            table[row, length:] = np.nan
        sides.append(table)
    found = accumulate(Divergences(*sides, np.arange(9) // 3), least=2)
    for length, texts, error, percent in zip(range(1, 7), *found, strict=False):
        alive = [row for row in range(9) if all(not math.isnan(side[row, length - 1]) for side in sides)]
        own, data = (sum(side[row, :length].sum() for row in alive) for side in sides)
        assert (texts, error, percent) == (
            len(alive),
            pytest.approx(length * own / data),
            pytest.approx((own / data - 1) * 100),
        )
        rows = statistics(Divergences(*sides, np.arange(9) // 3), length)
        assert rows.shape == (3, 2)
        assert bootstrap(rows, excess, samples=20).estimate == pytest.approx(percent)
    assert len(found.texts) == sum(
        sum(np.isfinite(sides[0][:, place]) & np.isfinite(sides[1][:, place])) >= 2 for place in range(6)
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
    for index, found in distributions(model, TinyVocabulary(), pairs, 2):
        batch = collate([pairs[index]], 0, 3)
        with torch.no_grad():
            hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        np.testing.assert_allclose(found, model.logits(hidden)[0].log_softmax(dim=-1).detach(), atol=1e-9)


def test_rollouts_depend_on_seed_and_pair_alone(random_model):
    model, pairs, vocabulary = random_model(7), pairs_of([1, 1, 1], 7), TinyVocabulary()
    found = sample_texts(model, vocabulary, pairs, 7, 3, seed=1, size=1)
    assert (
        found
        == sample_texts(model, vocabulary, pairs, 7, 3, seed=1, size=3)
        != sample_texts(model, vocabulary, pairs, 7, 3)
    )
    assert [len(row) for row in found] == [3, 3, 3]


def test_a_model_that_is_its_own_oracle_has_no_divergence_and_another_one_has(random_model):
    model, other = talkative(random_model(8)), random_model(9)
    pairs, vocabulary = pairs_of([4, 6, 3], 8), TinyVocabulary()
    own = measure_divergences(model, vocabulary, model_oracle([model], vocabulary), pairs, 6, samples=2)
    assert np.nanmax(np.abs(np.concatenate([own.rollouts, own.data], axis=1))) < 1e-9
    found = measure_divergences(model, vocabulary, model_oracle([other, model], vocabulary), pairs, 6, samples=2)
    assert found.sources.tolist() == [0, 0, 1, 1, 2, 2]
    assert (~np.isnan(found.data)).sum(axis=1).tolist() == [5, 5, 7, 7, 4, 4]
    texts = [text for row in sample_texts(model, vocabulary, pairs, 6, 2) for text in row]
    assert (~np.isnan(found.rollouts)).sum(axis=1).tolist() == [len(text.ids) + text.ended for text in texts]
    source, ids = pairs[1][0], texts[2].ids
    ours, theirs = (next(distributions(one, vocabulary, [(source, ids)]))[1] for one in (model, other))
    mixed = np.log((np.exp(ours) + np.exp(theirs)) / 2)
    kl = (np.exp(mixed) * (mixed - ours)).sum(axis=1)[: len(ids) + texts[2].ended]
    assert found.rollouts[2][: len(kl)] == pytest.approx(kl)
    assert accumulate(found, least=1).texts[0] == 6


def test_the_task_is_an_oracle_over_a_vocabulary_s_ids():
    pairs = TASK.pairs(200, 3, 6)
    vocabulary = train((text for pair in pairs for text in pair), 300)
    source, target = vocabulary.source_ids(vocabulary.encode("c a b")), vocabulary.encode("B C A")
    found = task_oracle(TASK, vocabulary)(source, target)
    known = TASK.along(["c", "a", "b"], ["B", "C", "A"])
    ids = [vocabulary.encode(word)[0] for word in "ABC"]
    assert found.shape == (4, vocabulary.size)
    assert found[:, [*ids, vocabulary.end]] == pytest.approx(known)
    assert np.exp(found).sum(axis=1) == pytest.approx(1)
    with pytest.raises(UserError, match="'D'"):
        task_oracle(Transduction(letters=4), vocabulary)
    with pytest.raises(UserError, match="an example is not of the run's task"):
        task_oracle(TASK, vocabulary)(vocabulary.source_ids([]), target)
