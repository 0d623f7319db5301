"""Adafactor's state, types, groups, and what it refuses."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2s.errors import UserError
from s2s.optim import OPTIMIZERS, Adafactor, AdafactorSettings

GIVEN = {"lr": 1e-2, "relative_step": False}
OPTIONS: list[dict[str, Any]] = [{}, {"beta1": 0.9, "momentum_dtype": torch.bfloat16}, {"min_dim_size_to_factor": 99}]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((6, 5), (4,), (2, 3, 4))]


def walk(optimizer: Adafactor, seed: int, steps: int = 3) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn(parameter.shape).to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_saved_state_goes_on_to_the_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    whole = Adafactor(parameters(dtype), **options)
    walk(whole, 1)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in whole.param_groups[0]["params"]]
    resumed = Adafactor(copies, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    walk(whole, 2)
    walk(resumed, 2)
    for ours, theirs in zip(copies, whole.param_groups[0]["params"], strict=True):
        assert torch.equal(ours, theirs)
        for name, value in whole.state[theirs].items():
            assert torch.equal(torch.as_tensor(resumed.state[ours][name]), torch.as_tensor(value)), name


def test_a_loaded_state_is_a_copy() -> None:
    first, second = Adafactor(parameters()), Adafactor(parameters())
    walk(first, 1)
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(first.state_dict()["state"])
    walk(second, 2)
    for number, state in first.state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(state[name]), torch.as_tensor(before[number][name])) for name in state)


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_bf16_parameters_are_rounded_once_a_step(beta1: float | None) -> None:
    rough, fine = (
        parameters(torch.bfloat16),
        [nn.Parameter(parameter.float()) for parameter in parameters(torch.bfloat16)],
    )
    optimizers = [Adafactor(some, 0.1, relative_step=False, beta1=beta1, weight_decay=0.1) for some in (rough, fine)]
    torch.manual_seed(1)
    for _ in range(4):
        for ours, theirs in zip(rough, fine, strict=True):
            ours.grad = torch.randn(ours.shape).to(torch.bfloat16)
            theirs.grad = ours.grad.float()
            theirs.data = ours.detach().float()
        for optimizer in optimizers:
            optimizer.step()
        for ours, theirs in zip(rough, fine, strict=True):
            assert torch.equal(ours, theirs.to(torch.bfloat16))
    for state in optimizers[0].state.values():
        assert all(value.dtype == torch.float32 for value in state.values() if isinstance(value, Tensor))


def test_bf16_momentum_stays_near_float32() -> None:
    ours, theirs = parameters(), parameters()
    walk(Adafactor(ours, **GIVEN, beta1=0.9, momentum_dtype=torch.bfloat16), 1, 10)
    walk(Adafactor(theirs, **GIVEN, beta1=0.9), 1, 10)
    start = parameters()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        assert 0 < (mine - other).norm() < 1e-2 * (other - before).norm()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_that_are_not_finite_are_refused_and_nothing_changes(which: int, value: float) -> None:
    some = parameters()
    optimizer = Adafactor([{"params": some[:1]}, {"params": some[1:]}])
    for parameter in some:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = copy.deepcopy((some, optimizer.state_dict()["state"]))
    some[which].grad.view(-1)[-1] = value
    place = ["parameter 0 of group 0", "parameter 0 of group 1", "parameter 1 of group 1"][which]
    with pytest.raises(UserError, match=f"{place}, shape .* is not finite"):
        optimizer.step()
    optimizer.defaults["skip_nonfinite"] = True
    optimizer.step()
    assert optimizer.skipped == 1
    assert all(torch.equal(ours, old) for ours, old in zip(some, before[0], strict=True))
    torch.testing.assert_close(optimizer.state_dict()["state"], before[1], rtol=0, atol=0)


def test_a_skipped_step_is_as_if_it_had_not_been() -> None:
    ours, theirs = parameters(), parameters()
    first, second = Adafactor(ours, skip_nonfinite=True), Adafactor(theirs)
    walk(first, 1)
    ours[0].grad[0, 0] = torch.nan
    first.step()
    walk(first, 2)
    walk(second, 1)
    walk(second, 2)
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_a_group_may_do_without_the_parameter_scale() -> None:
    bias, other = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    optimizer = Adafactor([{"params": [bias], "scale_parameter": False}, {"params": [other]}], **GIVEN)
    bias.grad = other.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((3,), -1e-2))
    torch.testing.assert_close(other.detach(), torch.full((3,), -1e-5))


def test_parameters_without_gradient_or_elements_are_left_alone() -> None:
    idle, empty, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(0, 4)), nn.Parameter(torch.ones(2))
    empty.grad, moved.grad = torch.ones(0, 4), torch.ones(2)
    optimizer = Adafactor([idle, empty, moved])
    assert optimizer.step(lambda: 3.5) == 3.5
    assert torch.equal(idle, torch.ones(2, 2))
    assert set(optimizer.state) == {moved}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr": 1e-3}, "lr"),
        ({"relative_step": False}, "lr"),
        ({**GIVEN, "warmup_init": True}, "warmup_init"),
        ({"lr": -1.0, "relative_step": False}, "lr"),
        ({"eps": (None, 1e-3)}, "eps"),
        ({"eps": (1e-30, -1.0)}, "eps"),
        ({"clip_threshold": 0.0}, "clip_threshold"),
        ({"decay_rate": 0.8}, "decay_rate"),
        ({"beta1": 1.0}, "beta1"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"beta2_cap": 1.1}, "beta2_cap"),
        ({"max_relative_step": -1.0}, "max_relative_step"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=f"^{word}: "):
        Adafactor(parameters(), **options)


@pytest.mark.parametrize(
    "values",
    [{"rate": -1.0}, {"decay": -1.0}, {"clip_threshold": 0.0}, {"beta1": 1.0}, {"beta2_cap": 2.0}],
)
def test_settings_without_meaning_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="^optimizer.*" + next(iter(values))):
        AdafactorSettings(**values)


def test_settings_follow_the_rate_of_the_loop() -> None:
    module = nn.Linear(4, 3)
    optimizer = OPTIMIZERS["adafactor"](rate=0.5, decay=0.1, scale_vectors=False, bf16_momentum=True).build(module)
    matrices, vectors = optimizer.param_groups
    assert (matrices["lr"], matrices["relative_step"]) == (0.5, False)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0)
    assert (matrices["scale_parameter"], vectors["scale_parameter"]) == (True, False)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    module(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
