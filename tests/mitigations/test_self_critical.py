"""Self-critical training against loops over samples, and which methods sequence-level ones combine with."""

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
    few,
    gradient,
    rows_of,
)
from sequences import (
    END,
    METRIC,
    assert_idle_rows_add_nothing,
    context_of,
    forced,
    log_prob,
    objective_of,
    reward,
    sampled,
    searched,
    training_context,
    with_idle,
)

from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS, Composition, check
from s2s.mitigations.base import PreparedMethod
from s2s.objective import Objective, ObjectiveSettings
from s2s.recipe.recipe import Recipe

NAME = "self_critical"
shapes = pytest.mark.parametrize("shape", SHAPES)


def objective(model, **keys):
    return objective_of(model, NAME, **({"metric": METRIC} | keys))


def critical(model, batch, copies):
    """The mean over rows and samples of -(reward - greedy reward) log p."""
    total = []
    for row, candidates in enumerate(sampled(model, batch, NAME, copies)):
        baseline = reward(searched(model, batch, row, None), batch, row)
        parts = [
            (reward(candidate, batch, row) - baseline) * log_prob(model, batch, row, candidate)
            for candidate in candidates
        ]
        total.append(-sum(parts) / copies)
    return sum(total) / len(total)


@shapes
@given(sizes=SIZES, seed=SEEDS, weight=st.sampled_from([0.3, 0.9]), copies=st.integers(1, 5))
@few
def test_the_loss_is_a_loop_over_samples(random_model, random_batch, shape, sizes, seed, weight, copies):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    model.output_bias.data[END] += 2.0
    expected = (1 - weight) * forced(model, batch, 0.1) + weight * critical(model, batch, copies)
    assert_same(
        objective_of(model, NAME, smoothing=0.1, candidates=copies, weight=weight, metric=METRIC), batch, expected
    )


def test_at_weight_1_it_stands_alone_and_far_from_teacher_forcing(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    losses = assert_same(objective(model, candidates=4), batch, critical(model, batch, 4))
    assert set(losses.parts) == {"loss", NAME}
    for weight in (0.5, 1.0):
        assert_other_than_teacher_forcing(objective(model, candidates=4, weight=weight), batch, 1e-2)


def test_a_step_makes_what_is_better_than_greedy_likelier_and_what_is_worse_less_likely(random_model, random_batch):
    seen = set()
    for seed in range(12):
        model, batch = random_model(seed), random_batch([(5, 3)], seed)
        candidate = sampled(model, batch, NAME, 1)[0][0]
        advantage = reward(candidate, batch, 0) - reward(searched(model, batch, 0, None), batch, 0)
        before = log_prob(model, batch, 0, candidate)
        step = gradient(model, objective(model)(batch).total)
        uphill = gradient(model, before)
        if advantage == 0:
            assert not step.any()
        else:
            # The gradient is the negative advantage times that of the log-probability.
            assert float(step @ uphill / (uphill @ uphill)) == pytest.approx(-advantage, rel=1e-9)
        seen.add((advantage > 0) - (advantage < 0))
    assert {-1, 1} <= seen


def test_where_the_sample_is_the_greedy_one_nothing_is_learnt(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    model.output_bias.data[7] = 1e4
    losses = objective(model, candidates=3)(batch)
    assert losses.total == 0
    assert not gradient(model, losses.total).any()


def test_at_weight_0_and_before_the_start_it_is_teacher_forcing_bit_for_bit(random_model, random_batch):
    batch = random_batch(FIXED)
    for keys in ({"weight": 0.0}, {"start_step": 1}):
        method = objective_of(random_model(dtype=torch.float32), NAME, smoothing=0.1, **keys)
        assert_teacher_forcing(method, batch, exact=True)


def test_rows_without_labels_add_nothing(random_model, random_batch):
    batch = random_batch([*FIXED, (4, 1)])
    for weight in (0.4, 1.0):
        method = objective(random_model(), weight=weight, candidates=3)
        assert_idle_rows_add_nothing(method, with_idle(batch, 0, 3), rows_of(batch, [1, 2]))


def checked(*methods):
    names, keys = [name for name, _ in methods], [keys for _, keys in methods]
    rows = [MITIGATIONS[name](**settings) for name, settings in zip(names, keys, strict=True)]
    check(Composition(rows, False, 0.0), names)


@pytest.mark.parametrize(("name", "keys"), [("mrt", {}), ("mrt_shuffled", {}), (NAME, {}), ("dpo", {"path": "x"})])
@pytest.mark.parametrize("feed", [("random_replacement", {}), ("raml", {})])
def test_at_weight_1_nothing_would_read_what_a_feed_edits(name, keys, feed):
    with pytest.raises(UserError, match=rf"^mitigations\[1\]: '{name}': at weight 1 nothing reads the prefixes"):
        checked(feed, (name, keys))
    checked(feed, (name, keys | {"weight": 0.9}))
    checked((name, keys))
    with pytest.raises(UserError, match=r"at most one that computes the loss"):
        checked((name, keys), ("gold", {}))


@pytest.mark.parametrize(("name", "keys"), [("brio", {"path": "x"}), ("gold", {})])
def test_methods_whose_token_loss_reads_the_fed_prefix_combine_with_feeds(name, keys):
    checked(("raml", {}), ("random_replacement", {}), (name, keys))


def test_a_recipe_says_which_method_cannot_follow_a_feed():
    with pytest.raises(UserError, match=rf"mitigations\[1\]: '{NAME}': at weight 1 .* a smaller weight mixes them in"):
        Recipe.load("toy_copy", [f"mitigations=[{{name: raml}}, {{name: {NAME}}}]"])


def test_after_a_feed_only_the_teacher_forcing_share_reads_the_edited_prefix(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    feed = MITIGATIONS["random_replacement"](pool="vocabulary", gate=1.0, rate=0.9)
    prepared = feed.prepare(training_context())
    [method] = objective(model, weight=0.4, candidates=3).mitigations
    fed = feed.feed(batch, context_of(batch, model, "random_replacement", prepared=prepared))  # type: ignore[attr-defined]
    assert not torch.equal(fed.target, batch.target)
    expected = 0.6 * forced(model, fed) + 0.4 * critical(model, batch, 3)
    rows = [PreparedMethod("random_replacement", feed, prepared), method]
    assert_same(Objective(model, ObjectiveSettings(), rows), batch, expected)
