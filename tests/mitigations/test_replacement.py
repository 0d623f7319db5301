"""Random replacement: what it touches, how often, and what its draws depend on; and the keys that all feeds have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import feed

from s2s.batch import IGNORED, collate, count
from s2s.data.batches import TokenisedSplit
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations.base import LossMethod, PreparedMethod, StepContext, TrainingContext, teacher_forcing
from s2s.mitigations.prefix_noise import POOLS, RandomReplacement
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws, seed_of
from s2s.vocabulary import Vocabulary

SIZES = st.lists(st.tuples(st.integers(2, 7), st.integers(0, 6)), min_size=1, max_size=5)
few = settings(deadline=None, max_examples=20)
NAME, SIZE, END = "random_replacement", 23, 3


class Letters(Vocabulary):
    size, padding, begin, end = SIZE, 0, 2, END

    def encode_all(self, texts):
        return [[ord(letter) - ord("a") + 4 for letter in text] for text in texts]

    def decode(self, ids):
        return "".join(chr(token - 4 + ord("a")) for token in ids if token > END)

    def save(self, folder):
        """It has nothing to save."""


class Recorder(LossMethod):
    """Teacher forcing that keeps what it was fed."""

    def loss(self, clean, fed, context):  # noqa: ARG002
        self.fed = fed
        return teacher_forcing(context.passes, fed)


def prepared(**keys):
    method = RandomReplacement(**keys)
    train = TokenisedSplit([[2, END]], [list(range(4, SIZE))], [])
    context = TrainingContext(Letters(), lambda: train, max_source=20, max_length=20, load_model=None)
    return PreparedMethod("random_replacement", method, method.prepare(context))


def context_of(batch, model=None, strength=1.0, name=NAME):
    passes = None if model is None else Passes(model, 0.0, model)
    return StepContext(passes, Draws(batch.seeds, name), count(batch), 0, strength)


def copies_of(target, rows):
    return collate([([2, 9, END], target)] * rows, 0, END)


def near(count_found, trials, chance):
    return abs(count_found - trials * chance) <= 5 * math.sqrt(trials * chance * (1 - chance))


@given(sizes=SIZES, seed=st.integers(0, 1000), pool=st.sampled_from(sorted(POOLS)), rate=st.sampled_from([0.3, 1.0]))
@few
def test_only_gated_rows_and_drawn_places_change_and_only_the_decoder_s_input(
    random_model, random_batch, sizes, seed, pool, rate
):
    batch, model = random_batch(sizes, seed), random_model()
    method, context = prepared(pool=pool, rate=rate, gate=0.6), context_of(batch, model)
    fed, uniform, gate = feed(method, batch, context), context.draws.uniform, context.draws.uniform("gate", 1)
    for row, (_, target) in enumerate(sizes):
        for column in range(batch.target.shape[1]):
            inside = 1 <= column <= target and gate[row, 0] < 0.6
            if not (inside and uniform("hit", column + 1)[row, column] < rate):
                assert fed.target[row, column] == batch.target[row, column]
            elif pool == "similar":
                assert fed.target[row, column] != batch.target[row, column]
            elif pool == "past":
                before = batch.labels[row, : column - 1] if column > 1 else batch.target[row, column]
                assert fed.target[row, column] in before
            elif pool == "target":
                assert fed.target[row, column] in batch.labels[row, :target]
    for name in ("source", "source_lengths", "labels", "seeds"):
        assert getattr(fed, name) is getattr(batch, name)


def test_the_part_of_tokens_that_change_is_gate_times_rate_times_the_chance_of_another():
    batch = copies_of([5, 6, 5, 8], 8000)
    fed = feed(prepared(), batch, context_of(batch))
    changed = fed.target != batch.target
    for column, same in enumerate([1 / 2, 1 / 4, 1 / 2, 1 / 4], start=1):
        assert near(int(changed[:, column].sum()), 8000, 0.5 * 0.3 * (1 - same))
    hits = RandomReplacement().hits(batch, context_of(batch))
    assert near(int((hits & ~changed)[:, 1:].sum()), int(hits.sum()), 3 / 8)  # a draw may be the token itself


def test_under_a_seed_the_counts_are_those_of_a_loop_over_the_draws():
    batch = copies_of([5, 6, 7, 8], 300)
    draws, target, expected = Draws(batch.seeds, NAME), [5, 6, 7, 8], []
    gate, hit, draw = (draws.uniform(*purpose) for purpose in (("gate", 1), ("hit", 5), ("token", 5)))
    for row in range(300):
        tokens = [END, *target]
        for column in range(1, 5):
            if gate[row, 0] < 0.5 and hit[row, column] < 0.3:
                tokens[column] = target[int(draw[row, column] * 4)]
        expected.append(tokens)
    fed = feed(prepared(), batch, context_of(batch))  # gate 0.5, rate 0.3 and the target are the default
    assert fed.target.tolist() == expected
    assert int((fed.target != batch.target).sum()) > 50


@pytest.mark.parametrize("pool", sorted(POOLS))
@pytest.mark.parametrize(("keys", "strength"), [({"rate": 0.0}, 1.0), ({"gate": 0.0}, 1.0), ({"gate": 1.0}, 0.0)])
def test_without_rate_gate_or_strength_the_batch_stays(random_model, random_batch, pool, keys, strength):
    batch = random_batch([(5, 4), (3, 6), (4, 0)])
    fed = feed(prepared(pool=pool, **keys), batch, context_of(batch, random_model(), strength))
    torch.testing.assert_close(fed, batch, rtol=0, atol=0)


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_neighbours_order_and_padding_change_nothing_and_other_seeds_do(random_model, random_batch, pool):
    sizes, model, method = [(4, 5), (7, 6), (3, 1), (5, 0), (6, 6)], random_model(), prepared(pool=pool, gate=0.9)
    batch = random_batch(sizes)
    whole = feed(method, batch, context_of(batch, model))
    for rows in ([0], [2, 0], [4, 3, 1], [3]):
        pairs = [(batch.source[row, : sizes[row][0]].tolist(), batch.labels[row, : sizes[row][1]].tolist())
                 for row in rows]  # fmt: skip
        part = collate(pairs, 0, END, batch.seeds[rows].tolist())
        fed = feed(method, part, context_of(part, model))
        for index, row in enumerate(rows):
            assert torch.equal(fed.target[index, : sizes[row][1] + 1], whole.target[row, : sizes[row][1] + 1])
    other = batch._replace(seeds=torch.tensor([seed_of("other epoch", row) for row in range(len(sizes))]))
    assert not torch.equal(feed(method, other, context_of(other, model)).target, whole.target)


def test_a_method_that_stands_twice_draws_twice(random_model, random_batch):
    model, batch, recorder = random_model(), random_batch([(5, 8)] * 40), Recorder()
    method = prepared(pool="vocabulary", gate=1.0)
    Objective(model, ObjectiveSettings(), [method, method, PreparedMethod("recorder", recorder)])(batch)
    once = feed(method, batch, context_of(batch))
    twice = feed(method, once, context_of(batch, name=f"{NAME} 2"))
    assert torch.equal(recorder.fed.target, twice.target)
    assert near(int((recorder.fed.target != batch.target).sum()), 40 * 8, (1 - 0.7**2) * 19 / 20)


@pytest.mark.parametrize("pool", sorted(POOLS))
def test_loss_and_gradients_are_those_of_teacher_forcing_on_the_replaced_inputs(random_model, random_batch, pool):
    model, batch = random_model(), random_batch([(5, 4), (7, 6), (3, 2)])
    method, gradients = prepared(pool=pool, gate=1.0), []
    fed = feed(method, batch, context_of(batch, model))
    for objective, given_batch in (
        (Objective(model, ObjectiveSettings(0.1), [method]), batch),
        (Objective(model, ObjectiveSettings(0.1)), fed),
    ):
        model.zero_grad()
        objective(given_batch).total.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    assert not torch.equal(fed.target, batch.target)
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, msg=name)


@given(
    start=st.integers(0, 5), ramp=st.integers(0, 5), step=st.integers(0, 12), weight=st.sampled_from([0.0, 0.3, 1.0])
)
@few
def test_a_feed_starts_at_its_step_grows_over_its_ramp_and_is_anchored_by_its_weight(
    random_model, random_batch, start, ramp, step, weight
):
    model, batch = random_model(), random_batch([(5, 6), (4, 5), (3, 6)])
    method = prepared(gate=1.0, rate=1.0, start_step=start, ramp_steps=ramp, weight=weight)
    total = Objective(model, ObjectiveSettings(), [method])(batch, step).total
    strength = 0.0 if step < start else 1.0 if ramp == 0 else min(1.0, (step - start + 1) / ramp)
    plain, fed = (
        Objective(model, ObjectiveSettings()),
        feed(prepared(gate=1.0, rate=strength), batch, context_of(batch)),
    )
    expected = weight * plain(fed).total + (1 - weight) * plain(batch).total
    torch.testing.assert_close(total, expected)
    if weight == 0 or step < start:
        assert total == plain(batch).total


def test_an_idle_row_stays_as_it_is(random_model, random_batch):
    batch = random_batch([(5, 4), (3, 6)])
    idle = batch._replace(labels=torch.full_like(batch.labels, IGNORED))
    for pool in POOLS:
        method = prepared(pool=pool, rate=1.0, gate=1.0)
        assert torch.equal(feed(method, idle, context_of(idle, random_model())).target, batch.target)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("pool", "targt", r"pool: no 'targt'.*target"), ("top_k", 0, "top_k: 0 "), ("temperature", 0, "temperature: 0 "),
     ("rate", 1.1, "rate: 1.1 "), ("gate", -1, "gate: -1 "), ("weight", 2, "weight: 2 "),
     ("start_step", -1, "start_step: -1 "), ("ramp_steps", -2, "ramp_steps: -2 ")],
)  # fmt: skip
def test_a_key_out_of_range_is_refused_by_name(key, value, message):
    with pytest.raises(UserError, match=message):
        RandomReplacement(**{key: value})
