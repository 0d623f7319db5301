"""Adafactor's passes in C against those in torch, and small parameters in bundles against each alone."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2s.errors import UserError
from s2s.optim import Adafactor
from s2s.optim.adafactor import bundles, kernels

GIVEN = {"lr": 1e-2, "relative_step": False}
OPTIONS: list[dict[str, Any]] = [
    {},
    {**GIVEN, "weight_decay": 0.1, "clip_threshold": 0.3},
    {**GIVEN, "clip_threshold": None, "scale_parameter": False, "beta2_cap": 0.5},
]
in_c = pytest.mark.skipif(kernels.build().functions is None, reason=f"nothing is compiled: {kernels.build().reason}")


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is worth C, and most are walked in several runs, the last one shorter."""
    monkeypatch.setattr(kernels, "LARGE", 1)
    monkeypatch.setattr(kernels, "CHUNK", 200)


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    shapes = ((1, 1), (1, 9), (9, 1), (4, 8), (33, 17), (64, 40), (5,), (), (7,))
    return [nn.Parameter(0.1 * torch.randn(shape)) for shape in shapes]


def walk(optimizer: Adafactor, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for step in range(steps):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = (1 + step % 3) * torch.randn(parameter.shape)
        optimizer.step()


def stepped(**options: Any) -> tuple[list[Tensor], Adafactor]:
    optimizer = Adafactor(parameters(), **options)
    walk(optimizer, 20)
    return [each.detach() for each in optimizer.param_groups[0]["params"]], optimizer


def assert_near(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-6 * other.norm()


@in_c
@pytest.mark.parametrize("options", OPTIONS)
def test_twenty_steps_in_c_equal_those_in_torch(options: dict[str, Any]) -> None:
    (ours, walked), (theirs, plain) = stepped(**options), stepped(**options, compiled=False)
    assert_near(ours, theirs)
    assert not all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True)), "both ran the same code"
    for mine, other in zip(walked.state.values(), plain.state.values(), strict=True):
        assert mine.keys() == other.keys()
        assert_near(*([torch.as_tensor(state[name]).double() for name in state] for state in (mine, other)))


@in_c
@pytest.mark.parametrize("options", OPTIONS)
def test_rows_and_columns_without_gradient_move_as_in_torch(options: dict[str, Any]) -> None:
    found = []
    for compiled in (True, False):
        torch.manual_seed(1)
        parameter = nn.Parameter(torch.randn(40, 30))
        optimizer = Adafactor([parameter], **options, compiled=compiled)
        for step in range(6):
            parameter.grad = torch.randn(40, 30) * 10.0 ** (3 * (step % 3) - 3)
            parameter.grad[step : 3 * step] = 0
            parameter.grad[:, 2 * step : 4 * step] = 0
            parameter.grad *= step != 3  # once there is no gradient at all
            optimizer.step()
        found.append(parameter.detach())
    assert_near(found[:1], found[1:])


def test_tiny_gradients_without_eps1_are_left_to_torch() -> None:
    found = []
    for compiled in (True, False):
        torch.manual_seed(1)
        parameter = nn.Parameter(torch.randn(40, 30))
        optimizer = Adafactor([parameter], **GIVEN, eps=(0.0, 1e-3), compiled=compiled)
        for _ in range(3):
            parameter.grad = 1e-18 * torch.randn(40, 30)
            optimizer.step()
        found.append(parameter.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("options", [*OPTIONS, {**GIVEN, "beta1": 0.9}, {**GIVEN, "min_dim_size_to_factor": 99}])
def test_bundles_equal_steps_of_each_parameter_alone(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = stepped(**options, compiled=False)
    monkeypatch.setattr(bundles, "SMALL", -1)
    assert_near(together, stepped(**options, compiled=False)[0])


def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = stepped(compiled=False)
    monkeypatch.setattr(kernels, "build", lambda: kernels.Built(None, "no C compiler was found"))
    assert all(map(torch.equal, stepped()[0], plain))


@in_c
def test_threads_change_no_bit() -> None:
    one, threads = stepped()[0], torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert all(map(torch.equal, stepped()[0], one))
    finally:
        torch.set_num_threads(threads)


@in_c
def test_a_saved_state_goes_on_to_the_bit() -> None:
    _, whole = stepped()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    copies = [nn.Parameter(each.detach().clone()) for each in whole.param_groups[0]["params"]]
    resumed = Adafactor(copies)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for optimizer in (whole, resumed):
        walk(optimizer, 3, seed=1)
    assert all(map(torch.equal, copies, whole.param_groups[0]["params"]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("index", [5, 8])
def test_one_number_that_is_not_finite_is_refused_by_name(value: float, index: int) -> None:
    optimizer = Adafactor(parameters())
    some = optimizer.param_groups[0]["params"]
    before = [each.detach().clone() for each in some]
    for parameter in some:
        parameter.grad = torch.ones_like(parameter)
    some[index].grad.view(-1)[-1] = value
    with pytest.raises(UserError, match=f"parameter {index} of group 0"):
        optimizer.step()
    assert all(map(torch.equal, some, before))
