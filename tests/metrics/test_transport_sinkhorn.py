"""Entropic transport against exact transport, a plain loop of scalings and finite differences; padding and batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2s.metrics import movers_problems, rotators_problems, sinkhorn_transport, word_movers_distance
from s2s.metrics import word_rotators_distance as exact_rotators
from s2s.metrics.transport.batched import Problems

few = settings(deadline=None, max_examples=8)
seeds, sizes = st.integers(0, 10_000), st.integers(1, 6)
PAIRS = [(movers_problems, word_movers_distance), (rotators_problems, exact_rotators)]
both = pytest.mark.parametrize(("problems", "exact"), PAIRS, ids=["movers", "rotators"])
every = pytest.mark.parametrize("problems", [movers_problems, rotators_problems])


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) + 0.3


def scalings(problem: Problems, epsilon: float) -> Tensor:
    """The plan by Cuturi's alternating scalings, without logarithms."""
    kernel = torch.exp(-problem.cost / epsilon)
    v = torch.ones_like(problem.y_weights)
    for _ in range(2000):
        u = problem.x_weights / (kernel @ v)
        v = problem.y_weights / (kernel.T @ u)
    return u[:, None] * kernel * v


@both
@given(seed=seeds, n=sizes, m=sizes)
@few
def test_it_comes_down_to_exact_transport_with_epsilon(problems, exact, seed: int, n: int, m: int) -> None:
    x, y = draw(seed, n, 3), draw(seed + 1, m, 3)
    problem, least = problems(x, y), exact(x, y)
    for epsilon in (1.0, 0.1, 0.01):
        found = sinkhorn_transport(problem, epsilon, iterations=20_000)
        assert found.miss < 1e-3
        # The excess is at most epsilon times the entropy of independent sides, but for the mass that went astray.
        astray = 2 * float(problem.cost.max() * found.miss) + 1e-9
        assert least - astray <= found.cost <= least + epsilon * math.log(n * m) + astray


@both
def test_it_is_exact_in_the_limit(problems, exact) -> None:
    x, y = draw(0, 4, 3), draw(1, 5, 3)
    excess = [float(sinkhorn_transport(problems(x, y), epsilon).cost) - exact(x, y) for epsilon in (1, 0.1, 0.01, 1e-3)]
    assert excess == sorted(excess, reverse=True)
    assert abs(excess[-1]) < 1e-4 < 0.1 < excess[0]


@given(seed=seeds, n=sizes, m=sizes)
@few
def test_the_plan_is_that_of_plain_scalings(seed: int, n: int, m: int) -> None:
    problem = rotators_problems(draw(seed, n, 3), draw(seed + 1, m, 3))
    found = sinkhorn_transport(problem, 0.2, iterations=5000, tolerance=1e-11)
    torch.testing.assert_close(found.plan, scalings(problem, 0.2), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.plan.sum(dim=1), problem.x_weights, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.plan.sum(dim=0), problem.y_weights, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.cost, (found.plan * problem.cost).sum())


@every
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_its_gradient_is_that_of_finite_differences(problems, epsilon: float) -> None:
    lengths = torch.tensor([3, 2]), torch.tensor([2, 4])

    def cost(x: Tensor, y: Tensor) -> Tensor:
        return sinkhorn_transport(problems(x, y, *lengths), epsilon, 5000, 1e-11).cost

    inputs = draw(1, 2, 3, 2).requires_grad_(), draw(2, 2, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(cost, inputs, eps=1e-5, atol=1e-5)


def test_the_gradient_of_the_plan_in_costs_and_weights_is_that_of_finite_differences() -> None:
    def plan(cost: Tensor, p: Tensor, q: Tensor) -> Tensor:
        return sinkhorn_transport(Problems(cost, p.softmax(-1), q.softmax(-1)), 1.0, 2000, 1e-11).plan

    inputs = [draw(seed, *shape).requires_grad_() for seed, shape in enumerate([(2, 3), (2,), (3,)])]
    assert torch.autograd.gradcheck(plan, inputs, eps=1e-5, atol=1e-5)


@every
@given(sizes=st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), seed=seeds, junk=st.floats(-1e6, 1e6))
@few
def test_a_padded_batch_is_its_sentences_one_by_one(problems, sizes, seed: int, junk: float) -> None:
    widths = max(n for n, _ in sizes) + 1, max(m for _, m in sizes)
    x, y = (torch.full((len(sizes), width, 3), junk, dtype=torch.float64) for width in widths)
    for row, (n, m) in enumerate(sizes):
        x[row, :n], y[row, :m] = draw(seed + row, n, 3), draw(seed - row - 1, m, 3)
    x, y, lengths = x.requires_grad_(), y.requires_grad_(), torch.tensor(sizes).unbind(dim=1)
    found = sinkhorn_transport(problems(x, y, *lengths), 1.0, iterations=2000, tolerance=1e-10)
    found.cost.sum().backward()
    for row, (n, m) in enumerate(sizes):
        first, second = (side[row, :length].detach().requires_grad_() for side, length in ((x, n), (y, m)))
        alone = sinkhorn_transport(problems(first, second), 1.0, iterations=2000, tolerance=1e-10)
        alone.cost.backward()
        torch.testing.assert_close(found.cost[row], alone.cost, atol=1e-8, rtol=0)
        torch.testing.assert_close(found.plan[row, :n, :m], alone.plan, atol=1e-8, rtol=0)
        torch.testing.assert_close(x.grad[row, :n], first.grad, atol=1e-6, rtol=0)
        torch.testing.assert_close(y.grad[row, :m], second.grad, atol=1e-6, rtol=0)
        assert not found.plan[row, n:].any()
        assert not found.plan[row, :, m:].any()
        assert not x.grad[row, n:].any()
        assert not y.grad[row, m:].any()


@every
def test_equal_sentences_have_a_finite_gradient_and_hardly_a_distance(problems) -> None:
    x = draw(0, 4, 3)
    moved = x.flip(0).clone().requires_grad_()
    found = sinkhorn_transport(problems(moved, x), 0.01)
    found.cost.backward()
    assert 0 <= found.cost < 1e-3
    assert moved.grad.isfinite().all()


def test_costs_of_padding_may_be_anything() -> None:
    problem = rotators_problems(draw(0, 3, 2), draw(1, 4, 2))
    cost = torch.nn.functional.pad(problem.cost, (0, 1, 0, 1), value=math.nan).requires_grad_()
    padded = Problems(cost, *(torch.nn.functional.pad(weights, (0, 1)) for weights in problem[1:]))
    found = sinkhorn_transport(padded)
    torch.testing.assert_close(found.cost, sinkhorn_transport(problem).cost)
    found.cost.backward()
    assert cost.grad.isfinite().all()


@every
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_lower_precisions_stay_near_float64(problems, kind: torch.dtype) -> None:
    x, y = draw(0, 5, 8, 16).to(kind), draw(1, 5, 7, 16).to(kind)
    found = sinkhorn_transport(problems(x, y), 0.05)
    assert found.cost.dtype == torch.float32
    torch.testing.assert_close(found.cost, sinkhorn_transport(problems(x.double(), y.double()), 0.05).cost.float())
    assert found.miss.max() < 1e-4


def test_too_few_iterations_show_in_the_miss_and_the_rows_are_met() -> None:
    problem = movers_problems(draw(0, 5, 3), draw(1, 6, 3))
    hasty, patient = (sinkhorn_transport(problem, 0.01, iterations=count) for count in (3, 5000))
    assert hasty.miss > 0.01 > 1e-5 > patient.miss
    torch.testing.assert_close(hasty.plan.sum(dim=1), problem.x_weights)
    assert float(hasty.miss) == pytest.approx(float((hasty.plan.sum(dim=0) - 1 / 6).abs().sum()))


ROWS, GOOD = torch.ones(2, 3, 4), torch.tensor([3, 1])
WRONG = [
    ((ROWS, ROWS, GOOD, torch.tensor([0, 3])), r"^y: an empty sentence$"),
    ((ROWS[:, :0], ROWS), r"^x: an empty sentence$"),
    ((ROWS, ROWS, torch.tensor([4, 1])), r"^x: a length of 4, but 3 columns$"),
    ((ROWS, ROWS, torch.tensor([3])), r"^x: sentences \(2,\), but lengths \(1,\)$"),
    ((ROWS, ROWS[..., :3]), r"^x and y: shapes \(2, 3, 4\) and \(2, 3, 3\) do not pair$"),
    ((ROWS[0, 0], ROWS), r"^x: sentences are a tensor \[\.\.\., tokens, width\], not of shape \(4,\)$"),
]


@every
@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_is_no_batch_is_refused_by_argument(problems, arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problems(*arguments)


def test_a_vector_of_zeros_has_no_direction_unless_it_is_padding() -> None:
    x = ROWS.clone()
    x[1, 1:] = 0
    assert rotators_problems(x, ROWS, GOOD).x_weights[1].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"^x: a vector of zeros has no direction$"):
        rotators_problems(x, ROWS)


@pytest.mark.parametrize("name", ["epsilon", "iterations", "tolerance"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: 0 is not above 0$"):
        sinkhorn_transport(movers_problems(ROWS, ROWS), **{name: 0})


@pytest.mark.parametrize(
    ("weights", "message"), [([0.5, 0.6], "add up"), ([1.5, -0.5], "negative"), ([np.nan, 1], "n")]
)
def test_weights_must_be_shares(weights: list[float], message: str) -> None:
    good, wrong = torch.tensor([0.5, 0.5]), torch.tensor(weights)
    for name, pair in (("x_weights", (wrong, good)), ("y_weights", (good, wrong))):
        with pytest.raises(ValueError, match=rf"^{name}: .*{message}"):
            sinkhorn_transport(Problems(torch.ones(2, 2), *pair))
