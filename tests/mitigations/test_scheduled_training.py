"""Scheduled sampling in training: its gradients, its start, and what its predictions depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import IGNORED, collate, count
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import PreparedMethod
from s2s.mitigations.base import StepContext
from s2s.mitigations.prefix_noise import SwapNoise, WordDropout
from s2s.mitigations.scheduled_sampling import POLICIES, ScheduledSampling
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws

SIZES = st.lists(st.tuples(st.integers(2, 6), st.integers(0, 6)), min_size=1, max_size=4)
SEEDS = st.integers(0, 1000)
few = settings(deadline=None, max_examples=20)
NAME, END = "scheduled_sampling", 3
KEYS = {"base": 0.7, "decay": 3.0, "confident": 0.01, "sure": 0.05}


def context_of(batch, model, step=0, strength=1.0):
    return StepContext(Passes(model, 0.0, model), Draws(batch.seeds, NAME), count(batch), step, strength)


def rows_of(batch):
    lengths = (batch.labels != IGNORED).sum(dim=1).tolist()
    return [row[:length].tolist() for row, length in zip(batch.target, lengths, strict=True)]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_no_gradient_flows_through_predictions_and_none_of_the_loss_s_is_lost(
    random_model, random_batch, policy, passes
):
    model, batch = random_model(), random_batch([(5, 6), (7, 3), (3, 5), (6, 6)])
    method, gradients = ScheduledSampling(policy=policy, passes=passes, noise=1.0, **KEYS), []
    fed = method.feed(batch, context_of(batch, model, step=5))
    assert not torch.equal(fed.target, batch.target)
    assert not fed.target.requires_grad
    for objective, given_batch in (
        (Objective(model, ObjectiveSettings(0.1), [PreparedMethod(NAME, method)]), batch),
        (Objective(model, ObjectiveSettings(0.1)), fed),
    ):
        model.zero_grad()
        losses = objective(given_batch, 5)
        losses.total.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, msg=name)


@given(sizes=SIZES, seed=SEEDS, passes=st.integers(1, 3), keys=st.sampled_from(["rate", "strength"]))
@few
def test_without_rate_or_strength_it_is_teacher_forcing(random_model, random_batch, sizes, seed, passes, keys):
    model, batch = random_model(seed), random_batch(sizes, seed)
    method = ScheduledSampling(rate=0.0 if keys == "rate" else 1.0, policy="always", passes=passes)
    fed = method.feed(batch, context_of(batch, model, strength=0.0 if keys == "strength" else 1.0))
    torch.testing.assert_close(fed, batch, rtol=0, atol=0)
    method.start_step = 3 if keys == "strength" else 0
    losses = Objective(model, ObjectiveSettings(), [PreparedMethod(NAME, method)])(batch, 2)
    assert losses.total == Objective(model, ObjectiveSettings())(batch).total


def test_steps_count_from_the_start(random_model, random_batch):
    model, batch = random_model(), random_batch([(5, 6)] * 20)
    method = ScheduledSampling(policy="inverse_sigmoid", decay=3.0, start_step=4, ramp_steps=8)
    total = Objective(model, ObjectiveSettings(), [PreparedMethod(NAME, method)])(batch, 9).total
    fed = method.feed(batch, context_of(batch, model, step=5, strength=6 / 8))
    assert total == Objective(model, ObjectiveSettings())(fed).total
    late = method.feed(batch, context_of(batch, model, step=10**7))  # where the exponential would overflow
    assert torch.equal(late.target, ScheduledSampling(policy="always").feed(batch, context_of(batch, model)).target)


def test_neighbours_order_and_padding_change_nothing_and_labels_stay(random_model, random_batch):
    model, sizes = random_model(), [(5, 6), (3, 4), (6, 0), (2, 1)]
    batch, method = random_batch(sizes), ScheduledSampling(rate=0.8, passes=2, noise=1.0, policy="always")
    whole = method.feed(batch, context_of(batch, model))
    assert torch.equal(whole.target[batch.labels == IGNORED], batch.target[batch.labels == IGNORED])
    assert whole.labels is batch.labels
    assert whole.source is batch.source
    for rows in ([1], [3, 1], [2], [3, 2, 0]):
        pairs = [(batch.source[row, : sizes[row][0]].tolist(), rows_of(batch)[row][1:]) for row in rows]
        part = collate(pairs, 0, END, batch.seeds[rows].tolist())
        assert rows_of(method.feed(part, context_of(part, model))) == [rows_of(whole)[row] for row in rows]


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("before", [WordDropout(rate=0.5, scope="all"), SwapNoise(rate=0.5)])
def test_it_may_follow_noise(random_model, random_batch, policy, before):
    model, batch = random_model(), random_batch([(5, 6), (7, 3), (3, 0)])
    method = ScheduledSampling(policy=policy, **KEYS)
    losses = Objective(model, ObjectiveSettings(), [PreparedMethod("noise", before), PreparedMethod(NAME, method)])(
        batch, 1
    )
    noisy = before.feed(batch, context_of(batch, model)._replace(draws=Draws(batch.seeds, "noise")))
    fed = method.feed(noisy, context_of(noisy, model, step=1))
    torch.testing.assert_close(losses.total, Objective(model, ObjectiveSettings())(fed, counts=count(batch)).total)


def test_the_defaults_are_likeliest_words_and_the_published_base():
    """A noise of 0 is a choice of this project's; Zhang et al.'s oracle words are samples, at a noise of 1."""
    method = ScheduledSampling()
    assert (method.policy, method.base, method.noise) == ("decoding_step", 0.99, 0.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("policy", "alway"), ("rate", 1.5), ("base", -0.1), ("confident", 2), ("sure", -1), ("passes", 0), ("noise", -1),
     ("decay", 0), ("decay", math.nan)],
)  # fmt: skip
def test_a_key_out_of_range_is_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"^{key}: .*{value}"):
        ScheduledSampling(**{key: value})
