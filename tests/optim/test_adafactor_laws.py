"""What holds for AdaFactor whatever the gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s2s.optim import Adafactor

sizes, seeds = st.integers(2, 9), st.integers(0, 999)
laws = settings(deadline=None, max_examples=25)


def stepped(start: Tensor, gradients: list[Tensor], **options: object) -> tuple[Tensor, dict[str, Tensor]]:
    """How far a parameter moved, and its state."""
    parameter = nn.Parameter(start.clone())
    optimizer = Adafactor([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return start - parameter.detach(), optimizer.state[parameter]


def draw(rows: int, columns: int, seed: int, count: int = 1) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(seed)
    start = torch.randn(rows, columns, dtype=torch.float64)
    return start, [torch.randn(rows, columns, dtype=torch.float64) for _ in range(count)]


def rms(tensor: Tensor) -> float:
    return float(tensor.norm()) / math.sqrt(tensor.numel())


GIVEN = {"lr": 1.0, "relative_step": False, "scale_parameter": False}


@laws
@given(rows=sizes, columns=sizes, seed=seeds)
def test_the_estimate_keeps_every_row_and_column_sum(rows: int, columns: int, seed: int) -> None:
    start, (gradient,) = draw(rows, columns, seed)
    moved, _ = stepped(start, [gradient], clip_threshold=None, **GIVEN)
    estimate = (gradient / moved) ** 2
    torch.testing.assert_close(estimate.sum(0), gradient.square().sum(0))
    torch.testing.assert_close(estimate.sum(1), gradient.square().sum(1))


@laws
@given(rows=sizes, columns=sizes, seed=seeds)
def test_the_estimate_minimises_the_i_divergence(rows: int, columns: int, seed: int) -> None:
    start, (gradient,) = draw(rows, columns, seed)
    moved, _ = stepped(start, [gradient], clip_threshold=None, **GIVEN)
    target, estimate = gradient.square(), (gradient / moved) ** 2

    def divergence(guess: Tensor) -> float:
        return float((target * (target / guess).log() - target + guess).sum())

    for size in (1e-3, 1e-2, 0.3):
        around = estimate * (size * torch.randn(rows, 1)).exp() * (size * torch.randn(1, columns)).exp()
        assert divergence(around) >= divergence(estimate)


@laws
@given(rows=sizes, columns=sizes, seed=seeds)
def test_the_first_step_is_the_sign_where_the_estimate_is_exact(rows: int, columns: int, seed: int) -> None:
    start, (gradient,) = draw(rows, columns, seed)
    rank_one = gradient.sign() * torch.rand(rows, 1).add(0.1) * torch.rand(1, columns).add(0.1)
    moved, _ = stepped(start, [rank_one], **GIVEN)
    torch.testing.assert_close(moved, gradient.sign())
    vector, _ = stepped(start[0], [gradient[0]], **GIVEN)
    torch.testing.assert_close(vector, gradient[0].sign())


@laws
@given(rows=sizes, columns=sizes, seed=seeds, clip=st.sampled_from([0.2, 0.5, 1.0]))
def test_steps_are_no_longer_than_the_clipping_allows(rows: int, columns: int, seed: int, clip: float) -> None:
    start, gradients = draw(rows, columns, seed, 3)
    before, _ = stepped(start, gradients[:2], lr=0.1, relative_step=False, clip_threshold=clip)
    after, _ = stepped(start, [*gradients[:2], 50 * gradients[2]], lr=0.1, relative_step=False, clip_threshold=clip)
    assert rms(after - before) == pytest.approx(0.1 * clip * max(1e-3, rms(start - before)))


@laws
@given(rows=sizes, columns=sizes, seed=seeds, factor=st.sampled_from([1e-6, 0.1, 30.0, 1e6]))
def test_the_size_of_the_loss_does_not_matter(rows: int, columns: int, seed: int, factor: float) -> None:
    start, gradients = draw(rows, columns, seed, 4)
    scaled, _ = stepped(start, [factor * gradient for gradient in gradients])
    torch.testing.assert_close(scaled, stepped(start, gradients)[0])


@laws
@given(rows=sizes, columns=sizes, seed=seeds)
def test_a_transposed_parameter_moves_transposed(rows: int, columns: int, seed: int) -> None:
    start, gradients = draw(rows, columns, seed, 4)
    moved, _ = stepped(start.T.contiguous(), [gradient.T for gradient in gradients], beta1=0.9)
    torch.testing.assert_close(moved.T, stepped(start, gradients, beta1=0.9)[0])


@laws
@given(rows=sizes, columns=sizes, seed=seeds, factor=st.sampled_from([0.5, 3.0, 100.0]))
def test_steps_grow_with_the_parameter(rows: int, columns: int, seed: int, factor: float) -> None:
    start, gradients = draw(rows, columns, seed, 3)
    torch.testing.assert_close(stepped(factor * start, gradients)[0], factor * stepped(start, gradients)[0])


TINY = {"eps": (1e-30, 1e-3), "eps_floor": True}


@pytest.mark.parametrize("options", [{}, {"eps": (0.0, 1e-3)}, {"eps": (None, 1e-3), "eps_floor": True}, TINY])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 4)])
def test_without_a_gradient_nothing_moves(shape: tuple[int, ...], options: dict[str, object]) -> None:
    moved, _ = stepped(torch.randn(shape), [torch.zeros(shape)] * 3, **options)
    assert torch.equal(moved, torch.zeros(shape))


def test_rows_that_never_had_a_gradient_stay_beside_huge_ones() -> None:
    gradient = torch.zeros(4, 3)
    gradient[1] = 1e15
    moved, _ = stepped(torch.ones(4, 3), [gradient] * 3)
    assert moved.isfinite().all()
    assert (moved != 0).any(1).tolist() == [False, True, False, False]


@laws
@given(rows=sizes, columns=sizes)
def test_the_state_has_as_many_numbers_as_rows_and_columns(rows: int, columns: int) -> None:
    start, gradients = draw(rows, columns, 0, 2)
    _, state = stepped(start, gradients)
    assert sum(value.numel() for value in state.values() if isinstance(value, Tensor)) == rows + columns
    _, state = stepped(start, gradients, min_dim_size_to_factor=min(rows, columns) + 1)
    assert sum(value.numel() for value in state.values() if isinstance(value, Tensor)) == rows * columns
