"""Mitigations, recomputation and dealing out under every attention variant."""

import pytest
import torch
from naive import FIXED, gradient, objective_of
from slotted import SLOTS, VARIANTS

from s2s.batch import add, count
from s2s.mitigations import MITIGATIONS
from s2s.objective import Objective, ObjectiveSettings

variants = pytest.mark.parametrize("attention", VARIANTS)
METHODS = {"fgm": {}, "r_drop": {"scope": "target", "alpha": 1.0}}


@pytest.fixture(scope="module")
def slotted_model(random_model):
    def make(attention, **shape):
        return random_model(0, attention=attention, **(SLOTS | shape))

    return make


def close(first, second):
    assert (first - second).norm() < 1e-9 * second.norm()


@variants
def test_fgm_is_two_whole_passes(slotted_model, random_batch, attention):
    model, batch = slotted_model(attention), random_batch(FIXED)
    total = objective_of(model, "fgm", epsilon=0.5, weight=0.3)(batch).total

    def entropy(words):
        hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths), words)
        return torch.nn.functional.cross_entropy(model.logits(hidden).flatten(0, 1), batch.labels.flatten())

    words = model.words(batch.target)
    clean = entropy(words)
    (grad,) = torch.autograd.grad(clean, words, retain_graph=True)
    norms = grad.flatten(1).norm(dim=1)[:, None, None]
    expected = 0.7 * clean + 0.3 * entropy(words + 0.5 * grad / norms.clamp(min=1e-30))
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    first, second = gradient(model, total), gradient(model, expected)
    assert (first - second).norm() < 1e-5 * second.norm()


@variants
def test_r_drop_without_dropout_is_teacher_forcing(slotted_model, random_batch, attention):
    model, batch = slotted_model(attention), random_batch(FIXED)
    plain = Objective(model, ObjectiveSettings())(batch).total
    total = objective_of(model, "r_drop", scope="target")(batch).total
    close(gradient(model, total), gradient(model, plain))


@variants
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kept", ["block", "selective"])
def test_recomputation_changes_no_bit(slotted_model, random_batch, attention, name, kept):
    model, batch = slotted_model(attention, dropout=0.2).train(), random_batch(FIXED)
    objective, gradients = objective_of(model, name, **METHODS[name]), []
    for row in ("none", kept):
        model.keep(row, 1)
        torch.manual_seed(1)
        gradients.append(gradient(model, objective(batch).total))
    assert torch.equal(*gradients)


@variants
@pytest.mark.parametrize("name", METHODS)
def test_the_parts_of_an_update_add_up(slotted_model, random_batch, attention, name):
    """As two processes with a micro-batch each compute them, before their gradients are added."""
    assert name in MITIGATIONS
    model, batch = slotted_model(attention), random_batch(FIXED)
    objective = objective_of(model, name, **METHODS[name])
    whole = gradient(model, objective(batch).total)
    parts = [batch.map(lambda tensor, rows=rows: tensor[rows]) for rows in (slice(0, 1), slice(1, None))]
    counts = add([count(part) for part in parts])
    close(sum(gradient(model, objective(part, 0, counts).total) for part in parts), whole)
