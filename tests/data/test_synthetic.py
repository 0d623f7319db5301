"""The synthetic task's true conditional against enumeration of its chain, and its samples against the conditional."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest

from s2s.data.synthetic import Transduction
from s2s.errors import UserError

TASK = Transduction(letters=3, modes=2, noise=0.2, switch=0.3, stay=0.25)


def chances_of(source, target, ended):
    """The chance that a text begins with, or is, a target: a sum over all paths of the chain."""
    total, letters = 0.0, "abc"
    for path in product(product(range(len(source)), range(TASK.modes)), repeat=len(target)):
        chance = 1 / TASK.modes if path and path[0][0] == 0 else 0.0
        for step, ((position, mode), word) in enumerate(zip(path, target, strict=True)):
            right = (letters.index(source[position]) + mode) % 3 == "ABC".index(word)
            chance *= TASK.noise / 3 + (1 - TASK.noise) * right
            if step + 1 < len(path):
                after, turned = path[step + 1]
                chance *= {0: TASK.stay, 1: 1 - TASK.stay}.get(after - position, 0.0)
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
        for position in range(len(target) + 1):
            assert along[position] == pytest.approx(task.log_probs(source, target[:position]))


def test_samples_of_the_task_follow_its_conditional():
    source, random, size = ["a", "c"], Random(1), 20_000
    drawn = Counter(tuple(TASK.sample(source, random)) for _ in range(size))
    for target, seen in drawn.most_common(12):
        along = TASK.along(source, target)
        numbers = [*("ABC".index(word) for word in target), 3]
        chance = math.exp(sum(row[number] for row, number in zip(along, numbers, strict=True)))
        assert seen / size == pytest.approx(chance, abs=4.5 * math.sqrt(chance / size))


def test_pairs_are_texts_of_the_lengths_asked_and_a_function_of_the_seed():
    task = replace(TASK, shortest=2, longest=4)
    pairs = task.pairs(50, seed=3)
    assert pairs == task.pairs(50, seed=3) != task.pairs(50, seed=4)
    assert {len(source.split()) for source, _ in pairs} == {2, 3, 4}
    assert {word for _, target in pairs for word in target.split()} == set("ABC")


@pytest.mark.parametrize("keys", [{"letters": 1}, {"modes": 9}, {"noise": 0.0}, {"stay": 1.0}, {"shortest": 21}])
def test_chances_that_make_a_prefix_impossible_are_refused(keys):
    with pytest.raises(UserError, match=f"data.task.{next(iter(keys))}"):
        Transduction(**keys)
    with pytest.raises(ValueError, match="letter"):
        TASK.along([], [])
