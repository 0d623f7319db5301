"""Recovery from corrupted prefixes against one pass a token, and its summaries against loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from diagnosed import PLAIN, TinyVocabulary, pairs_of
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate
from s2s.diagnose.corruptions import CORRUPTIONS, Prefix, corrupt, other_target
from s2s.diagnose.measurements import Recovery
from s2s.diagnose.recovery import NO_TOKEN, curve, damage, half_life, measure_recovery, sentences, statistics
from s2s.metrics.bootstrap import bootstrap

NAMES = tuple(CORRUPTIONS)


def next_log_probs(model, source, prefix):
    batch = collate([(source, prefix)], 0, 3)
    with torch.no_grad():
        hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        return model.logits(hidden)[0, -1].log_softmax(dim=-1)


def cost(model, source, prefix, token):
    return -float(next_log_probs(model, source, prefix)[token])


def likeliest(model, source, prefix):
    log_probs = next_log_probs(model, source, prefix)
    return max(PLAIN, key=lambda token: float(log_probs[token]))


def naive(model, pairs, example, name, length, distances, seed):
    """The deltas of one example by a whole forward for every token."""
    source, target = pairs[example]
    deltas = [math.nan] * distances
    if len(target) <= length:
        return deltas
    greedy = [likeliest(model, source, target[:position]) for position in range(length)]
    other = other_target([target for _, target in pairs], example, length, seed)
    tokens = corrupt(name, Prefix(target, length, other, greedy, PLAIN), seed, example)
    whole = [*target, 3]
    for distance in range(distances if tokens is not None else 0):
        position = length + distance
        between = whole[length:position]
        if position < len(whole) and len(tokens) + len(between) <= len(target):
            wrong = cost(model, source, [*tokens, *between], whole[position])
            deltas[distance] = wrong - cost(model, source, target[:position], whole[position])
    return deltas


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"norm": "pre"}, {"norm": "post", "transform": True}])
@given(lengths=st.lists(st.integers(0, 8), min_size=2, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=8)
def test_deltas_are_a_loop_over_examples_corruptions_and_tokens(random_model, shape, lengths, seed):
    model, pairs = random_model(seed, **shape), pairs_of(lengths, seed)
    result = measure_recovery(model, TinyVocabulary(), pairs, (1, 3), 4, NAMES, seed, size=3)
    for position, name in enumerate(NAMES):
        for column, length in enumerate((1, 3)):
            wanted = [naive(model, pairs, example, name, length, 4, seed) for example in range(len(pairs))]
            np.testing.assert_allclose(result.deltas[position, column], wanted, rtol=1e-7, atol=1e-9)
    for (source, target), sums in zip(pairs, result.clean, strict=True):
        whole = [*target, 3]
        costs = [cost(model, source, whole[:position], token) for position, token in enumerate(whole)]
        assert sums.tolist() == pytest.approx([sum(costs), len(whole)])


def test_how_sentences_are_batched_changes_nothing(random_model):
    model, pairs = random_model(1), pairs_of([4, 9, 6, 7, 3], 1)
    single, batched = (measure_recovery(model, TinyVocabulary(), pairs, (2, 5), 3, size=size).deltas for size in (1, 4))
    np.testing.assert_allclose(single, batched, rtol=1e-9, atol=1e-9)
    assert np.isfinite(single).any()


def test_a_model_that_ignores_its_prefix_takes_no_damage(random_model):
    model, pairs = random_model(2), pairs_of([8, 9, 6], 2)
    with torch.no_grad():  # every row of the output is the bias
        model.final_norm.weight.zero_()
        model.final_norm.bias.zero_()
    result = measure_recovery(model, TinyVocabulary(), pairs, (2,), 3)
    assert sentences(result, "drop", 2) == 3
    assert float(damage(statistics(result, NAMES).sum(axis=0), 3)) == pytest.approx(0, abs=1e-9)


def test_damage_is_the_sum_of_mean_deltas_averaged_over_corruptions_and_lengths():
    generator = np.random.default_rng(0)
    deltas = generator.normal(size=(3, 2, 7, 4))
    deltas[generator.random(deltas.shape) < 0.3] = np.nan
    deltas[2, 0] = np.nan  # a corruption that changed nothing
    deltas[0, 0, :, 3] = np.nan  # a distance that no sentence has
    result = Recovery(("drop", "swap", "distract"), (2, 5), deltas, np.ones((7, 2)), np.full((3, 2, 7, 6), NO_TOKEN))
    areas = []
    for row in (0, 2):
        for column in (0, 1):
            means = [
                np.mean([value for value in deltas[row, column, :, distance] if not math.isnan(value)])
                for distance in range(4)
                if np.isfinite(deltas[row, column, :, distance]).any()
            ]
            areas += [sum(means)] if means else []
    rows = statistics(result, ["drop", "distract"])
    assert len(areas) == 3
    assert float(damage(rows.sum(axis=0), 4)) == pytest.approx(np.mean(areas))
    assert bootstrap(rows, partial(damage, distances=4), samples=50).estimate == pytest.approx(np.mean(areas))
    assert curve(result, "swap", 5)[1] == pytest.approx(np.nanmean(deltas[1, 1, :, 1]))
    assert sentences(result, "distract", 2) == 0
    assert math.isnan(damage(statistics(result, ["distract"], [2]).sum(axis=0), 4))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([4, 3, 2, 1], 3),
        ([4, 2.1, 2.1], None),
        ([-1, -2], None),
        ([0, 0], None),
        ([math.nan, 1], None),
        ([4, math.nan, 1], 3),
    ],
)
def test_half_life_is_the_first_distance_of_half_the_damage(values, wanted):
    assert half_life(np.array(values, dtype=float)) == wanted
