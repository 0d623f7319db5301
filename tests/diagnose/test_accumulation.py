"""The accumulated error of a model against a synthetic task, against its closed form by enumeration of all texts."""

from itertools import product
from math import log

import numpy as np
import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative

from s2s.data.synthetic import Transduction
from s2s.diagnose.oracle import (
    Divergences,
    accumulate,
    distributions,
    divergence,
    excess,
    measure_divergences,
    model_oracle,
    statistics,
    sums,
)
from s2s.metrics.bootstrap import bootstrap

TASK = Transduction(letters=2, modes=1, noise=0.5, switch=0.5, stay=0.5)  # words at 3/4 and 1/4, an end at 1/2
MODEL = Transduction(letters=2, modes=1, noise=0.25, switch=0.5, stay=0.25)  # words at 7/8 and 1/8, an end at 3/4
SOURCE, LONGEST = ["a", "b"], 3


def texts_of(task):
    """Every text of a task for the source, of at most LONGEST words, with its probability and whether it ends."""
    for length in range(LONGEST + 1):
        for words in product("AB", repeat=length):
            rows = np.exp(task.along(SOURCE, words))
            chance = np.prod([rows[place]["AB".index(word)] for place, word in enumerate(words)])
            yield list(words), float(chance * rows[-1][2]) if length < LONGEST else float(chance), length < LONGEST


def kl_along(words, ended):
    """KL of task and model at each token, the end's included where there is one, by loops."""
    task, model = TASK.along(SOURCE, words), MODEL.along(SOURCE, words)
    rows = [
        sum(np.exp(p) * (p - q) for p, q in zip(*pair, strict=True) if np.exp(p))
        for pair in zip(task, model, strict=True)
    ]
    return rows if ended else rows[:-1]


def closed_form(length):
    """100 (E[sum of KL along the model's texts] / E[the same along the task's] - 1), of texts that are long enough."""
    means = []
    for task in (MODEL, TASK):
        rows = [(chance, kl_along(words, ended)) for words, chance, ended in texts_of(task)]
        alive = [(chance, sum(row[:length])) for chance, row in rows if len(row) >= length]
        means.append(sum(chance * kl for chance, kl in alive) / sum(chance for chance, _ in alive))
    return 100 * (means[0] / means[1] - 1)


def table(task):
    """Rows of KL along all texts of a task that can be, and their probabilities."""
    pairs = [(kl_along(words, ended), chance) for words, chance, ended in texts_of(task) if chance > 0]
    rows, chances = zip(*pairs, strict=True)
    assert sum(chances) == pytest.approx(1)
    return np.array([row + [np.nan] * (LONGEST - len(row)) for row in rows]), np.array(chances)


def test_the_excess_on_the_task_is_its_closed_form():
    (drawn, chances), (data, data_chances) = table(MODEL), table(TASK)
    # Every text of the model is paired with every text of the task, as the two are drawn independently.
    both = Divergences(
        np.repeat(drawn, len(data), axis=0), np.tile(data, (len(drawn), 1)), np.arange(len(drawn) * len(data))
    )
    weights = np.outer(chances, data_chances).ravel()
    for length in range(1, LONGEST + 1):
        totals = sums(both, length)
        alive = ~np.isnan(totals[:, 0])
        assert excess(weights[alive] @ totals[alive]) == pytest.approx(closed_form(length), abs=1e-9)
    assert closed_form(LONGEST) > 10


@pytest.mark.slow
def test_measured_on_drawn_texts_it_is_the_closed_form_of_the_model(random_model):
    model, vocabulary = talkative(random_model(3)), TinyVocabulary()
    oracle = model_oracle([random_model(4)], vocabulary)
    pairs = pairs_of([2], 5)
    divergences = measure_divergences(model, vocabulary, oracle, pairs, 2, samples=1000)
    source = pairs[0][0]
    first = next(distributions(model, vocabulary, [(source, [])]))[1][0]
    along = {
        token: divergence(oracle(source, [token]), next(distributions(model, vocabulary, [(source, [token])]))[1])
        for token in range(vocabulary.size)
    }
    chances = {token: float(np.exp(first[token])) for token in along if token != vocabulary.end}
    drawn = sum(chance * along[token].sum() for token, chance in chances.items()) / sum(chances.values())
    data = divergence(oracle(*pairs[0]), next(distributions(model, vocabulary, pairs))[1])[:2].sum()
    totals = sums(divergences, 2)
    totals = totals[~np.isnan(totals[:, 0])]
    spread = 100 * totals[:, 0].std() / data / len(totals) ** 0.5
    assert accumulate(divergences).excess[1] == pytest.approx(100 * (drawn / data - 1), abs=4 * spread)
    assert spread < 5


def test_a_model_equal_to_the_oracle_is_nothing_over_nothing(random_model):
    model, pairs, vocabulary = talkative(random_model(1, torch.float32)), pairs_of([4, 3, 5], 1), TinyVocabulary()
    divergences = measure_divergences(model, vocabulary, model_oracle([model], vocabulary), pairs, 6, samples=2)
    assert accumulate(divergences, least=1).excess.tolist() == [0] * len(accumulate(divergences, least=1).texts)
    assert bootstrap(statistics(divergences, 3), excess, samples=50) == (0, 0, 0)


def test_an_error_that_does_not_depend_on_the_prefix_does_not_accumulate(random_model):
    model, pairs, vocabulary = random_model(2), pairs_of([6, 8, 7], 2), TinyVocabulary()
    with torch.no_grad():  # every row of the output is the bias
        model.final_norm.weight.zero_()
        model.final_norm.bias.zero_()
    divergences = measure_divergences(
        model, vocabulary, lambda _, target: np.full((len(target) + 1, 23), -log(23)), pairs, 9, samples=4
    )
    assert divergences.data[0][0] > 0.01
    errors = accumulate(divergences, least=1)
    assert errors.excess == pytest.approx(0, abs=1e-9)
    assert errors.accumulated == pytest.approx(np.arange(1, len(errors.texts) + 1))
