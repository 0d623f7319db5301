"""Reward augmented targets: their distribution by enumeration, and what of a batch they leave alone."""

import itertools
import math

import pytest
import torch
from enumeration import assert_frequencies
from hypothesis import given
from hypothesis import strategies as st
from naive import FIXED, SEEDS, SIZES, assert_teacher_forcing, few, gradient, rows_of, tokens_of
from sequences import END, context_of, feed, objective_of, target_of, training_context

from s2s.batch import IGNORED, collate
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS, Composition, check
from s2s.mitigations.base import PreparedMethod
from s2s.mitigations.raml import RewardAugmented
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import seed_of

NAME = "raml"
TEMPERATURES = st.sampled_from([0.0, 0.1, 0.5, 2.0, 1e6])


def prepared(size=23, **keys):
    method = RewardAugmented(**keys)
    return PreparedMethod(NAME, method, method.prepare(training_context(size=size)))


def context(batch, strength=1.0):
    return context_of(batch, name=NAME, strength=strength)


def copies_of(target, rows):
    return collate([([2, 9, END], target)] * rows, 0, END)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 5.0])
def test_targets_are_as_frequent_as_their_rewards_say(temperature):
    plain, gold, rows = [1, 4, 5, 6, 7], [6, 1], 12000  # of 8 ids, all but padding, begin and end
    weights = {other: math.exp(-sum(a != b for a, b in zip(other, gold, strict=True)) / temperature)
               for other in itertools.product(plain, repeat=2)}  # fmt: skip
    batch = copies_of(gold, rows)
    fed = feed(prepared(8, temperature=temperature), batch, context(batch))
    drawn = [tuple(row) for row in fed.labels[:, :2].tolist()]
    assert set(drawn) <= set(weights)
    assert_frequencies([drawn.count(other) for other in weights], [w / sum(weights.values()) for w in weights.values()])


@given(size=st.integers(6, 23), temperature=st.sampled_from([0.002, 0.1, 0.5, 2.0, 1e6]))
@few
def test_the_rate_is_that_of_the_enumerated_distribution(size, temperature):
    others = size - 4  # all but padding, begin, end and the token itself
    away = others * math.exp(-1 / temperature)
    rate = RewardAugmented(temperature=temperature).rate(size - 3)
    assert rate == pytest.approx(away / (1 + away), rel=1e-12, abs=1e-300)
    assert RewardAugmented(temperature=0.0).rate(size - 3) == 0


@given(sizes=SIZES, seed=SEEDS, temperature=TEMPERATURES)
@few
def test_inputs_and_labels_agree_and_the_ends_and_padding_stay(random_batch, sizes, seed, temperature):
    batch = random_batch(sizes, seed)
    fed = feed(prepared(temperature=temperature), batch, context(batch))
    for row, (_, length) in enumerate(sizes):
        drawn = fed.target[row, 1 : length + 1].tolist()
        assert fed.labels[row, :length].tolist() == drawn
        assert not {0, 2, END} & set(drawn)
        assert fed.target[row, 0] == fed.labels[row, length] == END
        assert torch.equal(fed.target[row, length + 1 :], batch.target[row, length + 1 :])
        assert set(fed.labels[row, length + 1 :].tolist()) <= {IGNORED}
    for name in ("source", "source_lengths", "seeds"):
        assert getattr(fed, name) is getattr(batch, name)


def test_at_any_heat_a_token_becomes_every_other_one_alike_and_keeps_its_share():
    batch = copies_of([5, 6, 5, 8], 6000)
    fed = feed(prepared(temperature=1e9), batch, context(batch))
    plain = [1, *range(4, 23)]
    for column in range(1, 5):
        drawn = fed.target[:, column].tolist()
        assert_frequencies([drawn.count(token) for token in plain], [1 / len(plain)] * len(plain))


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_a_ramp_scales_the_chance(strength):
    batch = copies_of([5, 6, 5, 8], 5000)
    method = prepared(temperature=0.5)
    changed = int((feed(method, batch, context(batch, strength)).target != batch.target).sum())
    chance = strength * method.method.rate(len(method.prepared))
    assert abs(changed - 20000 * chance) <= 5 * math.sqrt(20000 * chance * (1 - chance))


def test_what_a_row_gets_depends_on_its_seed_alone(random_batch):
    batch, method = random_batch([(4, 5), (7, 3), (3, 1), (5, 0)]), prepared(temperature=0.6)
    whole = feed(method, batch, context(batch))
    for rows in ([0], [2, 0], [3, 1, 2]):
        part = rows_of(batch, rows)
        fed = feed(method, part, context(part))
        assert [target_of(fed, row) for row in range(len(rows))] == [target_of(whole, row) for row in rows]
    other = batch._replace(seeds=torch.tensor([seed_of("other epoch", row) for row in range(4)]))
    assert not torch.equal(feed(method, other, context(other)).target, whole.target)


def test_the_loss_is_teacher_forcing_on_the_drawn_targets(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    fed, plain = feed(prepared(temperature=1.0), batch, context(batch)), Objective(model, ObjectiveSettings(0.1))
    assert tokens_of(fed) == tokens_of(batch)
    assert not torch.equal(fed.labels, batch.labels)
    for weight in (0.4, 1.0):
        total = objective_of(model, NAME, smoothing=0.1, temperature=1.0, weight=weight)(batch).total
        expected = weight * plain(fed).total + (1 - weight) * plain(batch).total
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=0.0)
        gradient_of_total, gradient_of_expected, forced = (
            gradient(model, loss) for loss in (total, expected, plain(batch).total)
        )
        assert (gradient_of_total - gradient_of_expected).norm() <= 1e-10 * gradient_of_expected.norm()
        assert (gradient_of_total - forced).norm() >= 0.1 * forced.norm()


@pytest.mark.parametrize("keys", [{"temperature": 0.0}, {"weight": 0.0}, {"start_step": 1}])
def test_at_zero_it_is_teacher_forcing_bit_for_bit(random_model, random_batch, keys):
    objective = objective_of(random_model(dtype=torch.float32), NAME, smoothing=0.1, **keys)
    assert_teacher_forcing(objective, random_batch(FIXED), exact=True)


def test_an_ignored_row_stays_as_it_is(random_batch):
    batch = random_batch([(5, 4), (3, 6)])
    idle = batch._replace(labels=torch.full_like(batch.labels, IGNORED))
    fed = feed(prepared(temperature=1e6), idle, context(idle))
    assert torch.equal(fed.target, idle.target)
    assert torch.equal(fed.labels, idle.labels)


def test_it_stands_first_and_once():
    def checked(*names):
        check(Composition([MITIGATIONS[name]() for name in names], False, 0.0), list(names))

    checked(NAME)
    checked(NAME, "random_replacement", "word_dropout", "r_drop")
    for names in (("random_replacement", NAME), (NAME, "random_replacement", NAME), (NAME, NAME)):
        with pytest.raises(UserError, match=rf"^mitigations\[{len(names) - 1}\]: 'raml': .* has to come before"):
            checked(*names)


def test_a_temperature_below_0_is_refused():
    with pytest.raises(UserError, match=r"^temperature: -0\.1 is not at least 0"):
        RewardAugmented(temperature=-0.1)
