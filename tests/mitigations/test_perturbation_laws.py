"""What adversarial perturbations keep to: their length, their row, padding, zeros and ranges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_teacher_forcing,
    distance,
    examples,
    few,
    gradient,
    objective_of,
    rows_of,
    tokens_of,
)
from naive_steps import ascent, entropy_of, length, nothing

from s2s.batch import without_weight
from s2s.errors import UserError
from s2s.losses.passes import InputEmbeddings
from s2s.mitigations.adversarial import projected, scaled

METHODS = ("fgm", "pgd", "free_lb", "vat")
scopes = pytest.mark.parametrize("scope", ["target", "all"])
methods = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def steps_taken(monkeypatch):
    """What every call of ``InputEmbeddings.moved`` was given."""
    seen, moved = [], InputEmbeddings.moved
    monkeypatch.setattr(InputEmbeddings, "moved", lambda self, by: seen.append(list(by)) or moved(self, by))
    return seen


def norms(step):
    return torch.stack([part.flatten(1).square().sum(1) for part in step]).sum(0).sqrt()


@scopes
def test_a_step_of_fgm_has_the_length_epsilon_in_each_row(random_model, random_batch, steps_taken, scope):
    model, batch = random_model(), random_batch(FIXED)
    objective_of(model, "fgm", scope=scope, epsilon=0.7)(batch)
    for example, norm in zip(examples(batch), norms(steps_taken[0]), strict=True):
        pull = ascent(model, example, scope, nothing(model, example, scope), entropy_of(example, 0.0))
        assert float(norm) == pytest.approx(0.7 * length(pull) / (length(pull) + 1e-8), rel=1e-10)


@methods
@scopes
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_no_step_is_longer_than_epsilon_and_none_touches_padding(
    random_model, random_batch, steps_taken, name, scope, epsilon
):
    batch = random_batch(FIXED)
    objective_of(random_model(), name, scope=scope, epsilon=epsilon)(batch)
    assert len(steps_taken) == {"fgm": 1, "pgd": 3, "free_lb": 3, "vat": 2}[name]
    for step in steps_taken[1:] if name == "vat" else steps_taken:  # the first of VAT is its probe of length xi
        assert len(step) == (2 if scope == "all" else 1)
        assert (norms(step) <= epsilon * (1 + 1e-6)).all()
        assert (norms(step) > 0).all()
    for step in steps_taken:
        for example in examples(batch):
            assert step[0][example.row, : len(example.target)].abs().min() > 0
            assert not step[0][example.row, len(example.target) :].any()
            assert scope == "target" or not step[1][example.row, len(example.source) :].any()


@methods
@scopes
def test_a_row_moves_as_it_does_alone(random_model, random_batch, steps_taken, name, scope):
    model, batch = random_model(), random_batch(FIXED)
    objective = objective_of(model, name, scope=scope)
    objective(batch)
    together, steps_taken[:] = list(steps_taken), []
    objective(rows_of(batch, [2]))
    for batched, alone in zip(together, steps_taken, strict=True):
        for part, row_alone in zip(batched, alone, strict=True):
            torch.testing.assert_close(part[2, : row_alone.shape[1]], row_alone[0], rtol=1e-6, atol=1e-12)


@methods
@scopes
def test_without_a_gradient_nothing_moves(random_model, random_batch, steps_taken, name, scope):
    objective_of(random_model(), name, scope=scope)(without_weight(random_batch(FIXED)))
    for step in steps_taken if name in ("fgm", "pgd") else steps_taken[1:]:
        assert not step[0].any()
        assert scope == "target" or name == "free_lb" or not step[1].any()
    zeros = [torch.zeros(3, 4, 5), torch.zeros(3, 2, 5)]
    assert not any(part.any() for part in [*scaled(zeros, 2.0), *projected(zeros, 2.0)])


@methods
@scopes
@given(sizes=SIZES, seed=SEEDS, smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_at_weight_zero_or_epsilon_zero_they_are_teacher_forcing(
    random_model, random_batch, name, scope, sizes, seed, smoothing
):
    model, batch = random_model(seed), random_batch(sizes, seed)
    keys = {"scope": scope, "smoothing": smoothing}
    assert_teacher_forcing(objective_of(model, name, weight=0.0, **keys), batch, exact=True)
    assert_teacher_forcing(objective_of(model, name, epsilon=0.0, **keys), batch, exact=False)


@methods
@scopes
def test_they_are_not_teacher_forcing(random_model, random_batch, name, scope):
    assert_other_than_teacher_forcing(objective_of(random_model(), name, scope=scope), random_batch(FIXED))


@methods
def test_the_scopes_differ(random_model, random_batch, name):
    model, batch = random_model(), random_batch(FIXED)
    target_scope, both_scopes = (objective_of(model, name, scope=scope) for scope in ("target", "all"))
    assert (
        distance(gradient(target_scope, target_scope(batch).total), gradient(both_scopes, both_scopes(batch).total))
        > 1e-4
    )


@pytest.mark.parametrize("name", ["fgm", "pgd"])
def test_a_small_step_raises_the_loss_by_its_length_times_the_gradient(random_model, random_batch, name):
    model, batch = random_model(), random_batch([(5, 4)])
    (example,) = examples(batch)
    pull = ascent(model, example, "all", nothing(model, example, "all"), entropy_of(example, 0.0))
    plain = objective_of(model)(batch).total
    rise = objective_of(model, name, scope="all", epsilon=1e-5, weight=1.0)(batch).total - plain
    assert float(rise.detach()) == pytest.approx(1e-5 * length(pull) / tokens_of(batch), rel=1e-3)


@pytest.mark.parametrize("name", [*METHODS, "fgm_article"])
@pytest.mark.parametrize(("key", "value"), [("epsilon", -0.1), ("weight", 1.2), ("start_step", -1)])
def test_values_out_of_range_are_refused_by_name(random_model, name, key, value):
    with pytest.raises(UserError, match=f"^{key}: {value} "):
        objective_of(random_model(), name, **{key: value})


@pytest.mark.parametrize("name", ["pgd", "free_lb"])
def test_less_than_one_step_is_refused(random_model, name):
    with pytest.raises(UserError, match=r"^steps: 0 "):
        objective_of(random_model(), name, steps=0)
