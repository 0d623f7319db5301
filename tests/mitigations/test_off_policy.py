"""GOLD against loops over tokens, with a trained run as the reference."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_same,
    assert_teacher_forcing,
    cross_entropy,
    examples,
    few,
    gradient,
    mean_over,
    predict,
    rows_of,
)
from sequences import assert_idle_rows_add_nothing, context_of, objective_of, training_context, with_idle

import s2s
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.mitigations.base import PreparedMethod
from s2s.mitigations.gold import REWARDS
from s2s.objective import Objective, ObjectiveSettings
from s2s.runs.checkpoints import load_model

NAME = "gold"
DISCOUNTS = st.sampled_from([0.0, 0.5, 1.0])
rewarded = pytest.mark.parametrize("reward", ["sum", "product"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    tiny = ["data.size=240", "model.width=12", "model.heads=2", "model.layers=1", "model.dropout=0.4", "run.steps=2"]
    settings = [
        "run.evaluate_examples=1",
        "run.precision=fp32",
        f"run.folder={tmp_path_factory.mktemp('run') / 'tiny'}",
    ]
    folder = s2s.fit(s2s.Recipe.load("toy_copy", [*tiny, *settings])).folder
    run = s2s.load(folder, device="cpu")  # where the slow reference computes
    run.model.double()
    return run


def sized(reference):
    return reference.model.shape.vocabulary


def objective(reference, model, smoothing=0.0, **keys):
    folder = None if reference is None else str(reference.folder)
    built = objective_of(
        model, NAME, training_context(size=model.shape.vocabulary), smoothing, reference=folder, **keys
    )
    if built.mitigations[0].prepared is not None:
        built.mitigations[0].prepared.double()  # so that rounding hides nothing
    return built


def token_rewards(reference, example, reward, baseline=-10.0):
    with torch.no_grad():
        chances = predict(reference.model, example)
    log_probs = [float(chances[t, label]) for t, label in enumerate(example.labels.tolist())]
    return [max(value - baseline, 0.0) if reward == "product" else math.exp(value) for value in log_probs]


def gold_loss(model, rewards, example, floor, discount):
    chances, total = predict(model, example), torch.zeros((), dtype=torch.float64)
    for t, label in enumerate(example.labels.tolist()):
        returns = sum(discount ** (u - t) * rewards[u] for u in range(t, len(rewards)))
        importance = max(float(chances[t, label].detach().exp()), floor)
        total = total - importance * returns * chances[t, label]
    return total


@given(sizes=SIZES, seed=SEEDS, floor=st.sampled_from([0.0, 0.1, 0.9]), discount=DISCOUNTS,
       weight=st.sampled_from([0.3, 1.0]))  # fmt: skip
@few
def test_without_a_reference_each_token_counts_as_much_as_the_model_believes_it(
    random_model, random_batch, sizes, seed, floor, discount, weight
):
    model, batch = random_model(seed), random_batch(sizes, seed)
    expected = (1 - weight) * mean_over(
        batch, lambda example: cross_entropy(predict(model, example), example.labels, 0.1)
    )
    # Every return is 1, whatever the discount: that of a reward of 1 with none.
    ones = mean_over(batch, lambda example: gold_loss(model, [1.0] * len(example.labels), example, floor, 0.0))
    expected = expected + weight * ones
    assert_same(objective(None, model, 0.1, floor=floor, discount=discount, weight=weight), batch, expected)


@rewarded
@given(sizes=SIZES, seed=SEEDS, floor=st.sampled_from([0.0, 0.1]), discount=DISCOUNTS,
       weight=st.sampled_from([0.3, 1.0]), baseline=st.sampled_from([-10.0, -5.5]))  # fmt: skip
@few
def test_returns_are_a_double_loop_over_what_the_reference_believes(
    random_model, random_batch, reference, reward, sizes, seed, floor, discount, weight, baseline
):
    model, batch = random_model(seed, vocabulary=sized(reference)), random_batch(sizes, seed, sized(reference))
    keys = {"reward": reward, "floor": floor, "discount": discount, "baseline": baseline, "weight": weight}
    expected = (1 - weight) * mean_over(batch, lambda example: cross_entropy(predict(model, example), example.labels))
    returned = mean_over(
        batch,
        lambda example: gold_loss(model, token_rewards(reference, example, reward, baseline), example, floor, discount),
    )
    expected = expected + weight * returned
    assert_same(objective(reference, model, **keys), batch, expected)


@rewarded
@pytest.mark.parametrize("least", [0.0, 0.1, 7.5])
def test_no_reward_counts_for_less_than_its_floor(random_model, random_batch, reference, reward, least):
    """The official code's ``trunc_min``, which holds for each token before returns are added up."""
    model, batch = random_model(vocabulary=sized(reference)), random_batch(FIXED, 0, sized(reference))
    rewards = [[max(one, least) for one in token_rewards(reference, example, reward)] for example in examples(batch)]
    expected = mean_over(batch, lambda one: gold_loss(model, rewards[one.row], one, 0.1, 0.9))
    assert_same(objective(reference, model, reward=reward, reward_floor=least, discount=0.9), batch, expected)


@pytest.mark.parametrize("reward", sorted(REWARDS))
def test_the_gradient_is_far_from_teacher_forcing_s(random_model, random_batch, reference, reward):
    model, batch = random_model(vocabulary=sized(reference)), random_batch(FIXED, 0, sized(reference))
    # Under the floor all tokens count alike: a multiple of teacher forcing.
    assert_other_than_teacher_forcing(objective(reference, model, reward=reward, floor=0.0), batch, 1e-2)


def test_at_zero_it_is_teacher_forcing_and_so_it_is_where_all_tokens_count_alike(random_model, random_batch):
    batch = random_batch(FIXED)
    for keys in ({"weight": 0.0}, {"start_step": 1}):
        method = objective(None, random_model(dtype=torch.float32), 0.1, **keys)
        assert_teacher_forcing(method, batch, exact=True)
    assert_teacher_forcing(objective(None, random_model(), floor=1.0), batch, exact=False)


@rewarded
def test_rows_without_labels_add_nothing(random_model, random_batch, reference, reward):
    model, batch = random_model(vocabulary=sized(reference)), random_batch([*FIXED, (4, 1)], 0, sized(reference))
    method = objective(reference, model, reward=reward, weight=0.4)
    assert_idle_rows_add_nothing(method, with_idle(batch, 0, 3), rows_of(batch, [1, 2]))


@rewarded
def test_the_reference_is_frozen_and_no_part_of_the_objective(random_model, random_batch, reference, reward):
    model, batch = random_model(vocabulary=sized(reference)), random_batch(FIXED, 0, sized(reference))
    method, plain = objective(reference, model, reward=reward).train(), Objective(model, ObjectiveSettings())
    assert method.state_dict().keys() == plain.state_dict().keys()
    assert [id(parameter) for parameter in method.parameters()] == [id(parameter) for parameter in plain.parameters()]
    first, second = method(batch).total, method(batch).total  # the reference has dropout, and the model has none
    assert torch.equal(first, second)
    first.backward()
    assert gradient(model, second).norm() > 0
    assert all(parameter.grad is None for parameter in reference.model.parameters())


def test_a_feed_edits_what_the_model_reads_and_not_what_the_reference_reads(random_model, random_batch, reference):
    model, batch = random_model(vocabulary=sized(reference)), random_batch(FIXED, 0, sized(reference))
    [method] = objective(reference, model, reward="sum").mitigations
    feed = MITIGATIONS["random_replacement"](pool="vocabulary", gate=1.0, rate=0.9)
    prepared = feed.prepare(training_context(size=sized(reference)))
    fed = feed.feed(batch, context_of(batch, model, "random_replacement", prepared=prepared))  # type: ignore[attr-defined]
    assert not torch.equal(fed.target, batch.target)
    rewards = [token_rewards(reference, example, "sum") for example in examples(batch)]
    expected = mean_over(fed, lambda example: gold_loss(model, rewards[example.row], example, 0.1, 1.0))
    both = Objective(model, ObjectiveSettings(), [PreparedMethod("random_replacement", feed, prepared), method])
    assert_same(both, batch, expected)


def test_a_folder_that_does_not_do_is_said(random_model, reference, tmp_path):
    with pytest.raises(UserError, match=r"^reference: '/nowhere' is no run \(No such file"):
        objective_of(random_model(), NAME, reward="sum", reference="/nowhere")
    pieces = sized(reference)
    with pytest.raises(UserError, match=rf"^reference: '.*tiny' has {pieces} pieces, this run 23$"):
        objective(reference, random_model(), reward="product")
    shutil.copy(Path(reference.folder) / "run.json", tmp_path / "run.json")
    with pytest.raises(UserError, match=r"no best or last checkpoint yet"):
        objective_of(random_model(vocabulary=pieces), NAME, reward="sum", reference=str(tmp_path))


def test_a_recipe_trains_with_another_run_and_builds_with_a_function_that_reads_it(reference, tmp_path):
    row = f"{{name: gold, reward: sum, reference: {reference.folder}}}"
    recipe = s2s.Recipe.load(reference.folder / "recipe.yaml", [f"mitigations=[{row}]", f"run.folder={tmp_path / 'x'}"])
    with pytest.raises(
        UserError, match=r"a mitigation reads the run '.*tiny': give load_model=s2s\.runs\.checkpoints\.load_model"
    ):
        recipe.build()
    _, built = recipe.build(load_model)
    assert built.mitigations[0].prepared.shape == reference.model.shape
    assert s2s.fit(recipe).step > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"reward": "sums", "reference": "x"}, r"^reward: no 'sums'; did you mean 'sum'"),
     ({"reward": "sum"}, r"^reference: reward 'sum' needs the folder of a run"),
     ({"reward": "product"}, r"^reference: reward 'product' needs"), ({"floor": -0.1}, r"^floor: -0\.1 "),
     ({"floor": 1.1}, r"^floor: 1\.1 "),
     ({"reward_floor": -1}, r"^reward_floor: -1 "), ({"reward_floor": math.nan}, r"^reward_floor: nan "),
     ({"discount": 2}, r"^discount: 2 ")],
)  # fmt: skip
def test_a_wrong_key_is_refused_by_name(keys, message):
    with pytest.raises(UserError, match=message):
        MITIGATIONS[NAME](**keys)
