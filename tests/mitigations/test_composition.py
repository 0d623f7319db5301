"""How methods add up: over any split of an update, over steps, with feeds, and which ones stand together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import FIXED, SEEDS, SHAPES, SIZES, assert_adds_nothing, distance, few, gradient, objective_of, rows_of

from s2s.batch import add, count, without_weight
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import MITIGATIONS, PreparedMethod
from s2s.mitigations.base import Mitigation, StepContext
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws

PERTURBATIONS = ("fgm", "pgd", "free_lb", "vat", "gradient_penalty", "gradient_penalty_article")
SCOPED = (*PERTURBATIONS, "r_drop", "r_drop_article")
PLAIN = ("noise_consistency", "graduated_label_smoothing", "unlikelihood", "teaforn", "mixce")
FEEDS = ("word_dropout", "duplicate_noise", "shift_noise", "swap_noise")
KEYS = {"graduated_label_smoothing": {"smooth_low": 0.3}}  # random models are unsure
ROWS = [(name, {"scope": scope}) for name in SCOPED for scope in ("target", "all")]
ROWS += [(name, {"first_order": True}) for name in PERTURBATIONS[-2:]] + [(name, KEYS.get(name, {})) for name in PLAIN]
LOSS_METHODS = [*ROWS, ("fgm_article", {})]
rows = pytest.mark.parametrize(("name", "keys"), ROWS)
loss_methods = pytest.mark.parametrize(("name", "keys"), LOSS_METHODS)
feeds = pytest.mark.parametrize("feed", FEEDS)


def composed(model, *methods, smoothing=0.0):
    return Objective(
        model, ObjectiveSettings(smoothing), [PreparedMethod(name, MITIGATIONS[name](**keys)) for name, keys in methods]
    )


def fed_by(model, batch, *methods):
    """The batch as some prefix methods leave it."""
    for name, keys in methods:
        context = StepContext(Passes(model, 0.0, model), Draws(batch.seeds, name), count(batch), 0, 1.0)
        batch = MITIGATIONS[name](**keys).feed(batch, context)  # type: ignore[attr-defined]
    return batch


def dealt(batch, places):
    """The batch's examples dealt to three parts; a part without any is one that counts for nothing."""
    parts = [[row for row, part in enumerate(places) if part == wanted] for wanted in range(3)]
    return [rows_of(batch, part) if part else without_weight(rows_of(batch, [0])) for part in parts]


def assert_split_adds_up(objective, batch, places):
    whole, parts = objective(batch), dealt(batch, places)
    counts = add([count(part) for part in parts])
    assert counts == count(batch)
    split = [objective(part, counts=counts) for part in parts]
    torch.testing.assert_close(sum(losses.total for losses in split), whole.total, rtol=1e-6, atol=1e-12)
    for name, value in whole.parts.items():
        torch.testing.assert_close(sum(losses.parts[name] for losses in split), value, rtol=1e-6, atol=1e-12)
    added = sum(gradient(objective, losses.total) for losses in split)
    assert distance(added, gradient(objective, whole.total)) < 1e-6


PLACES = st.lists(st.integers(0, 2), min_size=3, max_size=3)


@rows
@given(sizes=SIZES, seed=SEEDS, places=PLACES, smoothing=st.sampled_from([0.0, 0.2]))
@settings(few, max_examples=3)
def test_the_losses_of_any_split_add_up(random_model, random_batch, name, keys, sizes, seed, places, smoothing):
    smoothing = 0.0 if name == "graduated_label_smoothing" else smoothing
    objective = objective_of(random_model(seed), name, smoothing, weight=0.7, **keys)
    assert_split_adds_up(objective, random_batch(sizes, seed), places[: len(sizes)])


@feeds
@given(sizes=SIZES, seed=SEEDS, places=PLACES)
@settings(few, max_examples=4)
def test_the_losses_of_any_split_after_an_anchored_feed_add_up(random_model, random_batch, feed, sizes, seed, places):
    objective = composed(random_model(seed), (feed, {"rate": 0.5, "weight": 0.6}), ("fgm", {"scope": "all"}))
    assert_split_adds_up(objective, random_batch(sizes, seed), places[: len(sizes)])


@loss_methods
@pytest.mark.parametrize(("shape", "weight"), [(SHAPES[0], 1.0), (SHAPES[1], 0.5)])
def test_a_batch_without_weight_adds_exactly_nothing(random_model, random_batch, name, keys, shape, weight):
    model = random_model(dropout=0.2, **shape)
    objective = composed(model, ("shift_noise", {"rate": 0.5, "weight": weight}), (name, keys)).train()
    batch = without_weight(random_batch([(5, 3), (3, 4)]))
    for counts in (None, count(random_batch([(5, 3)]))):
        objective.zero_grad()
        assert_adds_nothing(objective, batch, counts)


@feeds
@rows
def test_a_loss_method_reads_what_the_feed_has_left(random_model, random_batch, feed, name, keys):
    if name == "noise_consistency":
        pytest.skip("its first view is the gold prefix; see test_noise_consistency.py")
    model, batch = random_model(), random_batch([(6, 5), (4, 4)])
    losses = composed(model, (feed, {"rate": 0.6}), (name, keys))(batch)
    fed = fed_by(model, batch, (feed, {"rate": 0.6}))
    assert not torch.equal(fed.target, batch.target)
    if name == "unlikelihood" and feed == "swap_noise":
        return  # its candidates are those of the gold labels, which the swap has thinned out
    expected = composed(model, (name, keys))(fed, counts=count(batch))
    torch.testing.assert_close(losses.total, expected.total, rtol=1e-10, atol=0)
    assert distance(gradient(model, losses.total), gradient(model, expected.total)) < 1e-9


def test_feeds_work_in_their_order_and_each_with_draws_of_its_own(random_model, random_batch):
    model, batch = random_model(), random_batch([(5, 5)] * 4)
    plain = composed(model)
    shift, duplicate = ("shift_noise", {"rate": 0.5}), ("duplicate_noise", {"rate": 0.5})
    totals = []
    for methods in ([shift, duplicate], [duplicate, shift]):
        total = composed(model, *methods)(batch).total
        assert torch.equal(total, plain(fed_by(model, batch, *methods)).total)
        totals.append(total)
    assert not torch.equal(*totals)
    twice = composed(model, shift, shift)
    assert [method.name for method in twice.mitigations] == ["shift_noise", "shift_noise 2"]
    assert not torch.equal(twice(batch).total, plain(fed_by(model, batch, shift, shift)).total)


@loss_methods
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_feed_below_weight_one_anchors_on_gold(random_model, random_batch, name, keys, smoothing):
    smoothing = 0.0 if name == "graduated_label_smoothing" else smoothing
    model, batch = random_model(), random_batch(FIXED)
    noise, more = {"rate": 0.5}, {"rate": 0.3}
    anchored = [("shift_noise", noise | {"weight": 0.6}), ("word_dropout", more | {"weight": 0.5}), (name, keys)]
    losses = composed(model, *anchored, smoothing=smoothing)(batch)
    gold = composed(model, smoothing=smoothing)(batch)
    method = composed(model, ("shift_noise", noise), ("word_dropout", more), (name, keys), smoothing=smoothing)(batch)
    torch.testing.assert_close(losses.total, 0.7 * gold.total + 0.3 * method.total, rtol=1e-10, atol=0)
    expected = 0.7 * gradient(model, gold.total) + 0.3 * gradient(model, method.total)
    assert distance(gradient(model, losses.total), expected) < 1e-9
    torch.testing.assert_close(losses.parts["anchor"], 0.7 * gold.total.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(losses.parts["nll"], gold.parts["nll"], rtol=1e-10, atol=0)


def test_feeds_alone_are_teacher_forcing_on_their_inputs(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    for feed in FEEDS:
        losses = composed(model, (feed, {"rate": 0.5}))(batch)
        expected = composed(model)(fed_by(model, batch, (feed, {"rate": 0.5})), counts=count(batch))
        assert torch.equal(losses.total, expected.total)


def test_a_feed_that_asks_the_model_leaves_the_encoder_its_gradient(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    losses = [composed(model)(batch), composed(model, ("scheduled_sampling", {"rate": 0.0}))(batch)]
    torch.testing.assert_close(losses[1].total, losses[0].total, rtol=1e-12, atol=0)
    assert distance(gradient(model, losses[1].total), gradient(model, losses[0].total)) < 1e-12


def test_the_strength_is_zero_before_the_start_and_then_grows_in_equal_parts():
    ramp = Mitigation(start_step=5, ramp_steps=4)
    assert [ramp.strength(step) for step in range(3, 11)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [Mitigation(start_step=2).strength(step) for step in range(5)] == [0, 0, 1, 1, 1]
    assert [Mitigation(ramp_steps=2).strength(step) for step in range(4)] == [0.5, 1, 1, 1]
    assert Mitigation(weight=0.3).strength(0) == 1
    assert Mitigation(weight=0.0).strength(9) == 0


@loss_methods
def test_a_loss_method_s_weight_grows_from_teacher_forcing(random_model, random_batch, name, keys):
    model, batch = random_model(), random_batch(FIXED)
    timed = objective_of(model, name, weight=0.8, start_step=10, ramp_steps=4, **keys)
    plain = objective_of(model)(batch).total
    for step, weight in ((9, 0.0), (10, 0.2), (13, 0.8), (500, 0.8)):
        total = timed(batch, step=step).total
        expected = objective_of(model, name, weight=weight, **keys)(batch).total
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
        if not weight:
            assert torch.equal(total, plain)
            assert torch.equal(gradient(model, total), gradient(model, plain))
    assert abs(total - plain) > 1e-8 or name.startswith("r_drop")


@feeds
def test_a_feed_s_rate_grows_from_nothing(random_model, random_batch, feed):
    model, batch = random_model(), random_batch([(5, 5)] * 4)
    timed = objective_of(model, feed, rate=0.8, start_step=3, ramp_steps=4)
    for step, rate in ((2, 0.0), (3, 0.2), (4, 0.4), (6, 0.8), (90, 0.8)):
        assert torch.equal(timed(batch, step=step).total, objective_of(model, feed, rate=rate)(batch).total)
    assert torch.equal(timed(batch, step=2).total, objective_of(model)(batch).total)


@pytest.mark.parametrize("name", [name for name, _ in LOSS_METHODS])
@pytest.mark.parametrize(("key", "value"), [("weight", 1.5), ("weight", -0.5), ("start_step", -1), ("ramp_steps", -2)])
def test_common_keys_out_of_range_are_refused_by_name(name, key, value):
    with pytest.raises(UserError, match=f"^{key}: {value} "):
        MITIGATIONS[name](**{key: value})
