"""The loss against loops over tokens, and how the losses of an update's batches add up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import assert_adds_nothing
from torch.nn import functional

from s2s.batch import IGNORED, add, collate, count, without_weight
from s2s.errors import UserError
from s2s.objective import Objective, ObjectiveSettings

SIZES = st.lists(st.tuples(st.integers(2, 9), st.integers(0, 6)), min_size=1, max_size=6)
SMOOTHING = st.sampled_from([0.0, 0.1, 0.7])
SEEDS = st.integers(0, 1000)
few = settings(deadline=None, max_examples=15)
CLOSE = {"rtol": 1e-6, "atol": 0.0}


def rows_of(batch, indices):
    """The batch of some of the examples, padded again."""
    pairs = []
    for row in indices:
        length, tokens = int(batch.source_lengths[row]), int((batch.labels[row] != IGNORED).sum())
        pairs.append((batch.source[row, :length].tolist(), batch.target[row, 1:tokens].tolist()))
    return collate(pairs, padding=0, end=3)


def gradients(objective, losses):
    objective.zero_grad()
    losses.total.backward()
    return torch.cat([parameter.grad.flatten() for parameter in objective.parameters()])


@given(sizes=SIZES, seed=SEEDS, smoothing=SMOOTHING, norm=st.sampled_from(["pre", "post"]))
@few
@torch.no_grad()
def test_the_loss_is_a_loop_over_the_tokens(random_model, random_batch, sizes, seed, smoothing, norm):
    model, batch = random_model(seed, norm=norm), random_batch(sizes, seed)
    losses = Objective(model, ObjectiveSettings(smoothing))(batch)
    plain = smooth = tokens = 0.0
    for row, (source, target) in enumerate(sizes):
        memory = model.encode(batch.source[row : row + 1, :source], torch.tensor([source]))
        scores = model.logits(model.decode(batch.target[row : row + 1, : target + 1], memory))[0]
        for column in range(target + 1):
            chances = scores[column].exp() / scores[column].exp().sum()
            surprise = -chances.log()
            plain += surprise[batch.labels[row, column]]
            smooth += (1 - smoothing) * surprise[batch.labels[row, column]] + smoothing * surprise.mean()
            tokens += 1
    torch.testing.assert_close(losses.total.double(), smooth / tokens, **CLOSE)
    torch.testing.assert_close(losses.parts["cross_entropy"].double(), smooth / tokens, **CLOSE)
    torch.testing.assert_close(losses.parts["nll"].double(), plain / tokens, **CLOSE)


@given(sizes=SIZES, seed=SEEDS, smoothing=SMOOTHING)
@few
@torch.no_grad()
def test_smoothing_is_torch_s(random_model, random_batch, sizes, seed, smoothing):
    model, batch = random_model(seed), random_batch(sizes, seed)
    logits = model.logits(model.decode(batch.target, model.encode(batch.source, batch.source_lengths)))
    theirs = functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )
    ours = Objective(model, ObjectiveSettings(smoothing))(batch).total
    torch.testing.assert_close(ours.double(), theirs, **CLOSE)


@given(sizes=SIZES, seed=SEEDS, smoothing=SMOOTHING, data=st.data())
@few
def test_the_losses_of_any_split_add_up(random_model, random_batch, sizes, seed, smoothing, data):
    objective, batch = Objective(random_model(seed), ObjectiveSettings(smoothing)), random_batch(sizes, seed)
    whole = objective(batch)
    expected = gradients(objective, whole)
    dealt = data.draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes)))
    parts = [[row for row, part in enumerate(dealt) if part == wanted] for wanted in range(3)]
    batches = [rows_of(batch, rows) if rows else without_weight(rows_of(batch, [0])) for rows in parts]
    counts = add([count(part) for part in batches])
    assert counts == count(batch)
    split = [objective(part, step=0, counts=counts) for part in batches]
    torch.testing.assert_close(sum(losses.total for losses in split), whole.total, **CLOSE)
    for name, value in whole.parts.items():
        torch.testing.assert_close(sum(losses.parts[name] for losses in split), value, **CLOSE)
    found = sum(gradients(objective, losses) for losses in split)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [{}, {"norm": "post", "transform": True}])
def test_a_batch_without_weight_adds_exactly_nothing(random_model, random_batch, smoothing, shape):
    objective = Objective(random_model(**shape), ObjectiveSettings(smoothing)).train()
    batch = without_weight(random_batch([(5, 3), (3, 4)]))
    for counts in (None, count(random_batch([(5, 3)]))):
        objective.zero_grad()
        assert_adds_nothing(objective, batch, counts)


@given(sizes=SIZES)
@few
def test_counts_are_tokens_and_examples(random_batch, sizes):
    batch = random_batch(sizes)
    expected = (sum(target + 1 for _, target in sizes), sum(source for source, _ in sizes), len(sizes))
    assert count(batch) == expected
    assert count(without_weight(batch)) == (0, 0, 0)
    idle = without_weight(batch).map(lambda part: part[:1])
    assert add([count(batch), count(idle), count(batch)]) == tuple(2 * units for units in expected)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2])
def test_a_smoothing_out_of_range_is_refused_by_name(smoothing):
    with pytest.raises(UserError, match=rf"^objective\.label_smoothing: {smoothing} "):
        ObjectiveSettings(smoothing)
