"""Adafactor against the implementations of transformers and torch, and against its formulas written out as loops."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.optimization import Adafactor as Theirs

from s2s.optim import Adafactor
from s2s.optim.adafactor import reductions

SHAPES = [(), (7,), (5, 9), (9, 4), (1, 6), (6, 1), (3, 4, 6), (2, 3, 4, 5)]
DTYPES = [torch.float32, torch.float64]
Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def after(build: Build, dtype: torch.dtype, size: float = 1.0, steps: int = 20) -> list[Tensor]:
    """The parameters after some steps along random gradients."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(0.1 * torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    optimizer = build(parameters)
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = size * (1 + step % 3) * torch.randn(parameter.shape, dtype=dtype)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def assert_same(ours: Build, theirs: Build, dtype: torch.dtype, size: float = 1.0) -> None:
    limit = 1e-6 if dtype == torch.float32 else 1e-12
    start = after(lambda parameters: torch.optim.SGD(parameters, 0.0), dtype, size)
    for mine, other, before in zip(after(ours, dtype, size), after(theirs, dtype, size), start, strict=True):
        assert (mine - other).norm() <= limit * other.norm()
        assert (mine - before).norm() > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip_threshold", [1.0, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta1", [None, 0.9])
@pytest.mark.parametrize("scale_parameter", [True, False])
@pytest.mark.parametrize(
    "rate",
    [
        {"lr": 1e-2, "relative_step": False},
        {"relative_step": True},
        {"relative_step": True, "warmup_init": True},
    ],
)
def test_twenty_steps_equal_those_of_transformers(
    rate: dict[str, Any],
    scale_parameter: bool,
    beta1: float | None,
    weight_decay: float,
    clip_threshold: float,
    dtype: torch.dtype,
) -> None:
    options = {"beta1": beta1, "weight_decay": weight_decay, "clip_threshold": clip_threshold, **rate}
    options["scale_parameter"] = scale_parameter
    assert_same(lambda some: Adafactor(some, **options), lambda some: Theirs(some, **options), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("lr", [1e-2, 0.5])
@pytest.mark.parametrize(("eps", "size"), [((None, 1e-3), 1.0), ((None, 1e-3), 3e-8), ((1e-4, 0.2), 1e-4)])
def test_twenty_steps_equal_those_of_torch(
    eps: tuple[float | None, float], size: float, lr: float, weight_decay: float, dtype: torch.dtype
) -> None:
    def theirs(some: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(some, lr, -0.7, eps, d=1.1, weight_decay=weight_decay)

    assert_same(lambda some: Adafactor.pytorch(some, lr, -0.7, eps, 1.1, weight_decay), theirs, dtype, size)


def test_big_vision_is_its_formula() -> None:
    """Momentum of the updates before the rate, in bfloat16; beta2 at most 0.999; p shrinks by schedule times decay."""
    torch.manual_seed(0)
    gradients = torch.randn(1500, 40, 33, dtype=torch.float64).float()
    parameter = nn.Parameter(torch.randn(40, 33))
    expected, momentum = parameter.detach().double(), torch.zeros(40, 33)
    rows, columns = torch.zeros(40, dtype=torch.float64), torch.zeros(33, dtype=torch.float64)
    optimizer = Adafactor.big_vision([parameter], 1e-3, weight_decay=1e-3)
    for step, gradient in enumerate(gradients, start=1):
        schedule = (1 + step % 2) / 2
        optimizer.param_groups[0]["lr"] = rate = 1e-3 * schedule
        parameter.grad = gradient
        optimizer.step()
        beta2 = min(0.999, 1 - step**-0.8)
        rows = beta2 * rows + (1 - beta2) * gradient.double().square().mean(1)
        columns = beta2 * columns + (1 - beta2) * gradient.double().square().mean(0)
        update = gradient / (torch.outer(rows, columns) / rows.mean()).sqrt()
        mean = 0.9 * momentum.double() + 0.1 * update
        expected, momentum = expected - schedule * 1e-3 * expected - rate * mean, mean.to(torch.bfloat16)
    assert optimizer.state[parameter]["momentum"].dtype == torch.bfloat16
    assert (parameter - expected).norm() < 1e-3 * expected.norm()
    torch.testing.assert_close(optimizer.state[parameter]["rows"].double(), rows, rtol=1e-5, atol=0)


def chained(parameter, gradients, lr, decay, schedule):
    """big_vision's chain, a factor at a time: scale_by_adafactor, the rate, the decayed weights, the schedule, -1."""
    weights, mean, moments = parameter.double(), torch.zeros(parameter.shape), torch.zeros_like(parameter).double()
    for step, gradient in enumerate(gradients, start=1):
        beta2 = min(0.999, 1 - step**-0.8)
        moments = beta2 * moments + (1 - beta2) * (gradient.double() ** 2 + 1e-30)
        mean = (0.9 * mean.double() + 0.1 * gradient.double() / moments.sqrt()).to(torch.bfloat16)
        update = (lr * mean.double() + decay * weights) * schedule(step)
        weights = weights - update
    return weights


@pytest.mark.parametrize("lr", [1e-4, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.01, 0.3])
def test_big_vision_decays_by_the_schedule_whatever_the_rate(lr: float, decay: float) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(17), torch.randn(30, 17)
    parameters = [nn.Parameter(start.clone()), nn.Parameter(start.clone())]
    groups = [{"params": parameters[:1], "weight_decay": decay}, {"params": parameters[1:], "lr": lr / 10}]
    optimizer = Adafactor.big_vision(groups, lr, weight_decay=decay)
    schedule = lambda step: math.cos(step / 20)  # noqa: E731
    curve = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: schedule(done + 1))
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient.clone()
        optimizer.step()
        curve.step()
    for parameter, rate in zip(parameters, (lr, lr / 10), strict=True):
        expected = chained(start, gradients, rate, decay, schedule)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-3, atol=1e-3 * rate + 1e-6)


def test_a_state_from_before_an_option_came_still_loads() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = Adafactor([parameter], 1e-2, relative_step=False)
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    del state["param_groups"][0]["decay_by_schedule"]
    again = Adafactor([parameter], 1e-2, relative_step=False)
    again.load_state_dict(state)
    again.step()
    assert again.param_groups[0]["decay_by_schedule"] is False


def test_the_cap_on_beta2_is_reached() -> None:
    """With a cap of 0.5 the third step mixes halves; 1 - 3^-0.8 would be 0.58."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = Adafactor([parameter], beta2_cap=0.5)
    for size in (1.0, 2.0, 3.0):
        parameter.grad = torch.full((1,), size)
        optimizer.step()
    beta = 1 - 2**-0.8
    assert beta < 0.5
    second = beta * 1.0 + (1 - beta) * 4.0
    assert float(optimizer.state[parameter]["moments"]) == pytest.approx(0.5 * second + 0.5 * 9.0)


def test_mesh_tf_factors_the_two_largest_axes() -> None:
    """A kernel [3, 130, 2, 140] equals 6 matrices [130, 140] of mean rows and columns; a smaller one is kept whole."""
    torch.manual_seed(0)
    large, small = nn.Parameter(torch.randn(3, 130, 2, 140)), nn.Parameter(torch.randn(127, 200))
    optimizer = Adafactor.mesh_tf([large, small], lr=1e-2)
    before, total = large.detach().clone(), float(large.detach().norm()) / math.sqrt(large.numel())
    large.grad, small.grad = torch.randn(large.shape), torch.randn(small.shape)
    optimizer.step()
    assert set(optimizer.state[small]) == {"step", "moments"}
    update = torch.empty_like(large)
    for first in range(3):
        for second in range(2):
            gradient = large.grad[first, :, second]
            rows, columns = gradient.square().mean(1), gradient.square().mean(0)
            update[first, :, second] = gradient / (torch.outer(rows, columns) / rows.mean()).sqrt()
    rms = float(update.norm()) / math.sqrt(update.numel())
    torch.testing.assert_close(before - large.detach(), 1e-2 * total * update / max(1, rms), rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 40), columns=st.integers(1, 12), run=st.integers(1, 60), seed=st.integers(0, 99))
def test_sums_are_loops_whatever_the_runs(rows: int, columns: int, run: int, seed: int) -> None:
    torch.manual_seed(seed)
    matrix, weights, others = torch.randn(rows, columns), torch.rand(rows), torch.rand(columns)
    patch = pytest.MonkeyPatch()
    patch.setattr(reductions, "CHUNK", run)
    with patch.context():
        by_row, by_column = reductions.row_and_column_sums(matrix)
        form, total = reductions.weighted_square_sum(matrix, weights, others), reductions.square_sum(matrix)
    patch.undo()
    exact = matrix.double() ** 2
    torch.testing.assert_close(by_row.double(), exact.sum(1), rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(by_column.double(), exact.sum(0), rtol=1e-5, atol=1e-12)
    loop = sum(float(weights[i] * exact[i, j] * others[j]) for i in range(rows) for j in range(columns))
    assert float(form) == pytest.approx(loop, rel=1e-5)
    assert float(total) == pytest.approx(float(exact.sum()), rel=1e-5)


def test_a_matrix_of_many_runs_moves_as_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"beta1": 0.9, "weight_decay": 0.1, "clip_threshold": 0.5}
    one = after(lambda some: Adafactor(some, **options), torch.float32)
    monkeypatch.setattr(reductions, "CHUNK", 8)
    for mine, other in zip(after(lambda some: Adafactor(some, **options), torch.float32), one, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)
