"""Matrices of one shape stacked, as on a GPU, against each alone; and the operators of a step on the fake CUDA."""

import copy
from typing import Any

import pytest
import torch
from adafactor_launches_worker import CASES, LAYERS
from fake_devices import found_by, needs_fake_cuda
from torch import Tensor, nn

from s2s.errors import UserError
from s2s.optim import Adafactor
from s2s.optim.adafactor import stacks
from s2s.optim.adafactor.stacks import StackedMatrices
from s2s.optim.adafactor.updates import FactoredUpdate

SHAPES = [
    *[(5, 9), (9, 4), (5, 9), (7,), (5, 9), (1, 6), (9, 4), (1, 6), (), (3, 4, 6), (8, 8), (3, 4, 6), (2, 9, 5, 1)],
    *[(5, 9), (5, 9)],
]
DTYPES = [torch.float32, torch.float64]
GIVEN = {"lr": 1e-2, "relative_step": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "relative": {},
    "warm-up": {"warmup_init": True, "weight_decay": 0.1},
    "decay": {**GIVEN, "weight_decay": 0.1, "clip_threshold": 0.3},
    "plain": {**GIVEN, "clip_threshold": None, "scale_parameter": False, "beta2_cap": 0.5},
    "momentum": {**GIVEN, "beta1": 0.9, "weight_decay": 0.1},
    "rounded momentum": {**GIVEN, "beta1": 0.9, "momentum_dtype": torch.bfloat16},
    "late momentum": {**GIVEN, "beta1": 0.9, "momentum_before_scaling": True, "decay_by_schedule": True},
    "floor": {"eps": (None, 1e-3), "eps_floor": True},
    "high floor": {"eps": (3.0, 0.2), "eps_floor": True, "max_relative_step": 0.5, "scale_weight_decay": False},
    "much added": {"eps": (0.5, 0.2)},
    "low floor": {"eps": (0.95, 1e-3), "eps_floor": True},
    "largest axes": {"largest_axes": True, "clip_threshold": 0.3},
    "unfactored": {"min_dim_size_to_factor": 5},
}


def stacked(monkeypatch: pytest.MonkeyPatch, device: str, size: int = stacks.STACK) -> list[int]:
    """Stack matrices on a device; the list that is returned gets the number of matrices of each stack."""
    numbers, build = list[int](), StackedMatrices.__init__

    def counted(self: StackedMatrices, parts: list[FactoredUpdate]) -> None:
        numbers.append(len(parts))
        build(self, parts)

    monkeypatch.setattr(stacks, "DEVICE", device)
    monkeypatch.setattr(stacks, "STACK", size)
    monkeypatch.setattr(StackedMatrices, "__init__", counted)
    return numbers


def walk(optimizer: Adafactor, seed: int, steps: int) -> None:
    """Take steps along random gradients, which some parameters lack in some steps, so that their numbers differ."""
    torch.manual_seed(seed)
    for step in range(steps):
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            gradient = (1 + step % 3) * torch.randn(parameter.shape, dtype=torch.float64)
            parameter.grad = None if (step + number) % 11 == 0 else gradient.to(parameter.dtype)
        optimizer.step()


def walked(options: dict[str, Any], dtype: torch.dtype) -> Adafactor:
    torch.manual_seed(0)
    parameters = [nn.Parameter((0.1 * torch.randn(shape, dtype=torch.float64)).to(dtype)) for shape in SHAPES]
    optimizer = Adafactor(parameters, **options)
    walk(optimizer, 1, 20)
    return optimizer


def assert_near(ours: Adafactor, theirs: Adafactor, limit: float) -> None:
    """Compare parameters and the state as it is saved."""
    first, second = (optimizer.param_groups[0]["params"] for optimizer in (ours, theirs))
    states, others = (optimizer.state_dict()["state"] for optimizer in (ours, theirs))
    assert states.keys() == others.keys()
    pairs = [*zip(first, second, strict=True)]
    for number, other in others.items():
        assert states[number].keys() == other.keys()
        pairs += [(torch.as_tensor(states[number][name]), torch.as_tensor(value)) for name, value in other.items()]
    for mine, other in pairs:
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        # The last place of bfloat16 may fall either way.
        near = max(limit, 1e-2) if mine.dtype == torch.bfloat16 else limit
        assert (mine.double() - other.double()).norm() <= near * other.double().norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_stack_moves_as_each_matrix_alone(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, numbers = walked(OPTIONS[name], dtype), stacked(monkeypatch, "cpu")
    together = walked(OPTIONS[name], dtype)
    assert numbers
    # What bfloat16 rounds the other way comes back as a step of another length.
    limit = 1e-4 if "rounded" in name else (1e-6 if dtype == torch.float32 else 1e-12)
    assert_near(together, alone, limit)


def test_a_stack_has_no_more_elements_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, numbers = walked({}, torch.float64), stacked(monkeypatch, "cpu", 100)
    together = walked({}, torch.float64)
    assert set(numbers) == {2}, "matrices of 45 and 36 elements by twos, and there are two of 6 elements"
    assert_near(together, alone, 1e-12)


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_parameters_in_bfloat16_are_not_stacked(beta1: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their statistics are in float32, which operators over lists of tensors do not mix."""
    alone, numbers = walked({"beta1": beta1}, torch.bfloat16), stacked(monkeypatch, "cpu")
    assert_near(walked({"beta1": beta1}, torch.bfloat16), alone, 0.0)
    assert not numbers


@pytest.mark.parametrize("name", OPTIONS)
def test_a_state_of_steps_alone_goes_on_stacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = walked(OPTIONS[name], torch.float64)
    resumed = Adafactor(copy.deepcopy(alone.param_groups[0]["params"]), **OPTIONS[name])
    resumed.load_state_dict(copy.deepcopy(alone.state_dict()))
    walk(alone, 2, 3)
    numbers = stacked(monkeypatch, "cpu")
    walk(resumed, 2, 3)
    assert numbers
    assert_near(resumed, alone, 1e-4 if "rounded" in name else 1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("index", [0, 4, 11])
def test_the_matrix_of_a_stack_that_is_not_finite_is_named(
    value: float, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, numbers = walked({"beta1": 0.9}, torch.float32), stacked(monkeypatch, "cpu")
    parameters = optimizer.param_groups[0]["params"]
    before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[index].grad.view(-1)[-1] = value
    with pytest.raises(UserError, match=f"parameter {index} of group 0"):
        optimizer.step()
    assert numbers
    assert all(map(torch.equal, parameters, before[0]))
    torch.testing.assert_close(optimizer.state_dict()["state"], before[1], rtol=0, atol=0)


def test_gradients_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = stacked(monkeypatch, "cpu")
    optimizer = walked({**GIVEN, "beta1": 0.9}, torch.float32)
    parameters: list[Tensor] = optimizer.param_groups[0]["params"]
    kept = [torch.zeros(()) if parameter.grad is None else parameter.grad.clone() for parameter in parameters]
    optimizer.step()
    assert numbers
    for gradient, parameter in zip(kept, parameters, strict=True):
        assert parameter.grad is None or torch.equal(gradient, parameter.grad)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("launches")
    found: dict[str, Any] = found_by("adafactor_launches_worker.py", "launches.json", folder)
    return found


@pytest.mark.slow
@needs_fake_cuda
@pytest.mark.parametrize("case", CASES)
def test_a_layer_more_costs_a_few_operators_at_most(case: str, counts: dict[str, Any]) -> None:
    """``before`` is a loop over matrices; the model's vectors are together in both."""
    few, many = (counts[case][str(layers)] for layers in LAYERS)
    more = LAYERS[1] - LAYERS[0]
    assert many["launches"] - few["launches"] <= 3 * more, counts[case]
    assert many["before"] - few["before"] >= 60 * more, counts[case]
    # One before anything changes, to see that all gradients are finite, and one for the lengths of the steps.
    assert many["stalls"] == few["stalls"] == few["stalls before"] == 2


@pytest.mark.slow
@needs_fake_cuda
@pytest.mark.parametrize("case", CASES)
def test_stacks_on_a_gpu_move_as_a_loop_on_a_processor(case: str, counts: dict[str, Any]) -> None:
    for count in counts[case].values():
        assert count["apart"] <= 1e-6


@pytest.mark.slow
@needs_fake_cuda
def test_a_step_holds_two_stacks_at_most(counts: dict[str, Any]) -> None:
    """Its largest tensors, and the sums of rows and columns, of a model whose weights are many stacks."""
    held = counts["memory"]
    assert held["momentum"] <= 2.2 * held["stack"], held
    assert held["plain"] <= 1.2 * held["stack"], held
    assert held["weights"] >= 6 * held["stack"], held
