"""Adversarial perturbations against naive ones: one example at a time, whole passes over source and target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    SEEDS,
    SHAPES,
    SIZES,
    assert_same,
    cross_entropy,
    divergence,
    few,
    mean_over,
    objective_of,
    predict,
)
from naive_steps import ascent, drawn, entropy_of, moved, nothing, of_length, pgd_steps

scopes = pytest.mark.parametrize("scope", ["target", "all"])
shapes = pytest.mark.parametrize("shape", SHAPES)
WEIGHTS = st.sampled_from([0.3, 0.5, 1.0])
EPSILONS = st.sampled_from([0.1, 1.0, 4.0])


@scopes
@shapes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, epsilon=EPSILONS, smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_fgm_is_a_loop_over_examples(random_model, random_batch, scope, shape, sizes, seed, weight, epsilon, smoothing):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)

    def loss(example):
        entropy = entropy_of(example, smoothing)
        step = of_length(ascent(model, example, scope, nothing(model, example, scope), entropy), epsilon)
        return (1 - weight) * entropy(predict(model, example)) + weight * entropy(moved(model, example, scope, step))

    objective = objective_of(model, "fgm", smoothing, scope=scope, weight=weight, epsilon=epsilon)
    assert_same(objective, batch, mean_over(batch, loss))


@scopes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, steps=st.integers(1, 4), epsilon=EPSILONS)
@few
def test_pgd_is_a_loop_over_examples_and_ascents(
    random_model, random_batch, scope, sizes, seed, weight, steps, epsilon
):
    model, batch = random_model(seed), random_batch(sizes, seed)

    def loss(example):
        entropy = entropy_of(example, 0.0)
        start = nothing(model, example, scope)
        step = pgd_steps(model, example, scope, start, entropy, steps, 0.6, epsilon)[-1]
        return (1 - weight) * entropy(predict(model, example)) + weight * entropy(moved(model, example, scope, step))

    objective = objective_of(model, "pgd", scope=scope, weight=weight, steps=steps, stride=0.6, epsilon=epsilon)
    assert_same(objective, batch, mean_over(batch, loss), 1e-7)


@scopes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, steps=st.integers(1, 3), epsilon=EPSILONS)
@few
def test_free_lb_is_a_mean_over_ascents_from_a_random_start(
    random_model, random_batch, scope, sizes, seed, weight, steps, epsilon
):
    model, batch = random_model(seed), random_batch(sizes, seed)

    def loss(example):
        entropy = entropy_of(example, 0.0)
        start = drawn(batch, example, scope, "free_lb", model.shape.width, gaussian=False)
        numbers = sum(part.numel() for part in start)
        start = [part * epsilon / numbers**0.5 for part in start]
        path = [start, *pgd_steps(model, example, scope, start, entropy, steps - 1, 0.6, epsilon)]
        mean = sum(entropy(moved(model, example, scope, step)) for step in path) / steps
        return (1 - weight) * entropy(predict(model, example)) + weight * mean

    objective = objective_of(model, "free_lb", scope=scope, weight=weight, steps=steps, stride=0.6, epsilon=epsilon)
    assert_same(objective, batch, mean_over(batch, loss), 1e-6)


@scopes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, iterations=st.integers(0, 2), epsilon=EPSILONS)
@few
def test_vat_is_the_divergence_in_the_direction_of_the_power_iteration(
    random_model, random_batch, scope, sizes, seed, weight, iterations, epsilon
):
    model, batch = random_model(seed), random_batch(sizes, seed)

    def loss(example):
        clean = predict(model, example)
        still = clean.detach()
        direction = drawn(batch, example, scope, "vat", model.shape.width, gaussian=True)
        for _ in range(iterations):
            probe = of_length(direction, 0.5)
            direction = ascent(model, example, scope, probe, lambda chances: divergence(still, chances))
        there = moved(model, example, scope, of_length(direction, epsilon))
        return cross_entropy(clean, example.labels) + weight * divergence(still, there)

    keys = {"scope": scope, "weight": weight, "epsilon": epsilon, "xi": 0.5, "iterations": iterations}
    assert_same(objective_of(model, "vat", **keys), batch, mean_over(batch, loss), 1e-6)


@scopes
@given(sizes=SIZES, seed=SEEDS)
@few
def test_one_long_step_of_pgd_is_fgm(random_model, random_batch, scope, sizes, seed):
    model, batch = random_model(seed), random_batch(sizes, seed)
    pgd, fgm = objective_of(model, "pgd", scope=scope, steps=1, stride=7.0), objective_of(model, "fgm", scope=scope)
    assert_same(pgd, batch, fgm(batch).total, 1e-6)
