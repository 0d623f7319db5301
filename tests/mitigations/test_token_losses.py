"""Losses on single tokens against loops over the tokens of one example at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SHAPES,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_same,
    assert_teacher_forcing,
    cross_entropy,
    examples,
    few,
    mean_over,
    objective_of,
    predict,
)

from s2s.batch import collate
from s2s.errors import UserError

shapes = pytest.mark.parametrize("shape", SHAPES)
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0])
FACTORS = (1.0, 4.0, 8.0)
SMOOTHING = st.sampled_from([0.0, 0.2])


def sharpened(model, factor):
    """The model with its scores multiplied, so that its confidences lie on all sides of the limits."""
    model.final_norm.weight.data *= factor
    model.final_norm.bias.data *= factor
    return model


@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, factor=st.sampled_from(FACTORS))
@few
def test_graduated_smoothing_goes_by_the_first_choice_s_probability(
    random_model, random_batch, sizes, seed, weight, factor
):
    model, batch = sharpened(random_model(seed), factor), random_batch(sizes, seed)

    def loss(example):
        chances, total = predict(model, example), 0.0
        for log_probs, label in zip(chances, example.labels.tolist(), strict=True):
            surest = float(log_probs.detach().max().exp())
            share = 0.4 if surest > 0.6 else 0.05 if surest < 0.25 else 0.15
            spread = sum(-log_probs[word] for word in range(len(log_probs))) / len(log_probs)
            total = (
                total - (1 - weight) * log_probs[label] + weight * (-(1 - share) * log_probs[label] + share * spread)
            )
        return total

    keys = {"high": 0.6, "low": 0.25, "smooth_high": 0.4, "smooth": 0.15, "smooth_low": 0.05, "weight": weight}
    losses = assert_same(objective_of(model, "graduated_label_smoothing", **keys), batch, mean_over(batch, loss), 1e-7)
    plain = mean_over(batch, lambda row: cross_entropy(predict(model, row), row.labels))
    torch.testing.assert_close(losses.parts["nll"], plain.detach(), rtol=1e-10, atol=1e-12)


def test_confidences_lie_on_all_sides_of_the_limits(random_model, random_batch):
    batch = random_batch([(5, 5)] * 3)
    models = [sharpened(random_model(), factor) for factor in FACTORS]
    sure = torch.cat([predict(model, example).amax(dim=1).exp() for model in models for example in examples(batch)])
    assert (sure > 0.7).any()
    assert (sure < 0.3).any()
    assert ((sure > 0.3) & (sure < 0.7)).any()


@given(sizes=SIZES, seed=SEEDS)
@few
def test_graduated_smoothing_with_equal_shares_is_label_smoothing(random_model, random_batch, sizes, seed):
    model, batch = random_model(seed), random_batch(sizes, seed)
    same = objective_of(model, "graduated_label_smoothing", smooth_high=0.2, smooth=0.2, smooth_low=0.2)
    assert_same(same, batch, objective_of(model, smoothing=0.2)(batch).total, 1e-7)


def candidates(labels):
    """For each place the tokens before it, each once, without the place's own."""
    return [set(labels[:column]) - {label} for column, label in enumerate(labels)]


def test_candidates_are_earlier_tokens_once_each():
    assert candidates([5, 6, 5, 7]) == [set(), {5}, {6}, {5, 6}]


def repetitive(sizes, seed, kinds):
    """A batch whose targets have few kinds of tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length, kinds):
        return torch.randint(4, 4 + kinds, (length,), generator=generator).tolist()

    return collate([([2, *ids(source - 2, 18), 3], ids(target, kinds)) for source, target in sizes], 0, 3)


@shapes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, alpha=st.sampled_from([0.5, 2.0]), kinds=st.integers(1, 4), s=SMOOTHING)
@few
def test_unlikelihood_is_a_loop_over_places_and_candidates(random_model, shape, sizes, seed, weight, alpha, kinds, s):
    model, batch = random_model(seed, **shape), repetitive(sizes, seed, kinds)

    def loss(example):
        chances, labels = predict(model, example), example.labels.tolist()
        total = cross_entropy(chances, example.labels, s)
        for log_probs, wrong in zip(chances, candidates(labels), strict=True):
            for word in wrong:
                total = total - weight * alpha * (1 - log_probs[word].exp()).log()
        return total

    objective = objective_of(model, "unlikelihood", s, weight=weight, alpha=alpha)
    assert_same(objective, batch, mean_over(batch, loss))


def test_unlikelihood_of_a_sure_candidate_is_finite(random_model):
    model, batch = random_model(), collate([([2, 5, 3], [7, 8, 9])], 0, 3)
    model.output_bias.data[7] = 500.0
    objective = objective_of(model, "unlikelihood")
    losses = objective(batch)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


@shapes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, smoothing=SMOOTHING)
@few
def test_mixce_weighs_each_token_by_its_own_constant_probability(
    random_model, random_batch, shape, sizes, seed, weight, smoothing
):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)

    def loss(example):
        chances = predict(model, example)
        total = (1 - weight) * cross_entropy(chances, example.labels, smoothing)
        for log_probs, label in zip(chances, example.labels.tolist(), strict=True):
            total = total - weight * float(log_probs[label].detach().exp()) * log_probs[label]
        return total

    objective = objective_of(model, "mixce", smoothing, weight=weight)
    assert_same(objective, batch, mean_over(batch, loss))


ZEROS = [
    ("graduated_label_smoothing", {"smooth_high": 0.0, "smooth": 0.0, "smooth_low": 0.0}),
    ("unlikelihood", {"alpha": 0.0}),
]


@pytest.mark.parametrize("name", ["graduated_label_smoothing", "unlikelihood", "mixce"])
@given(sizes=SIZES, seed=SEEDS)
@few
def test_at_weight_zero_they_are_teacher_forcing(random_model, random_batch, name, sizes, seed):
    model, batch = random_model(seed), random_batch(sizes, seed)
    assert_teacher_forcing(objective_of(model, name, weight=0.0), batch, exact=True)


@pytest.mark.parametrize(("name", "zero"), ZEROS)
@given(sizes=SIZES, seed=SEEDS)
@few
def test_at_their_own_zero_they_are_teacher_forcing(random_model, random_batch, name, zero, sizes, seed):
    model, batch = random_model(seed), random_batch(sizes, seed)
    assert_teacher_forcing(objective_of(model, name, **zero), batch, exact=False)


@pytest.mark.parametrize("name", ["graduated_label_smoothing", "unlikelihood", "mixce"])
def test_they_are_not_teacher_forcing(random_model, name):
    model, batch = sharpened(random_model(), 2.0), repetitive(FIXED, 0, 4)
    assert_other_than_teacher_forcing(objective_of(model, name), batch, 0.01)


REFUSALS = [
    ("graduated_label_smoothing", {"high": 1.5}, "^high: 1.5 "),
    ("graduated_label_smoothing", {"smooth_low": -0.1}, "^smooth_low: -0.1 "),
    ("graduated_label_smoothing", {"low": 0.8, "high": 0.2}, "^low: 0.8 is above high: 0.2"),
    ("unlikelihood", {"alpha": -1.0}, "^alpha: -1.0 "),
    ("mixce", {"weight": 1.1}, "^weight: 1.1 "),
]


@pytest.mark.parametrize(("name", "keys", "message"), REFUSALS)
def test_values_out_of_range_are_refused_by_name(random_model, name, keys, message):
    with pytest.raises(UserError, match=message):
        objective_of(random_model(), name, **keys)
