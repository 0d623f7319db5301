"""Transport with an entropy term, by Sinkhorn's iteration on logarithms: for batches, on any device, differentiable."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from s2s.metrics.transport.batched import Problems

_CHECKS = 10
"""Iterations between two looks at the convergence: each waits for the device."""

_ANNEALING = 0.9
"""What an iteration leaves of the entropy's weight until it is down at epsilon."""

_ROUNDING = 1e-5
"""How far from 1 weights may add up."""


class Transport(NamedTuple):
    """The mean cost [...] of the plans [..., n, m], and by how much [...] their column sums miss what is wanted.

    The miss is the sum of absolute differences; rows are met exactly.
    """

    cost: Tensor
    plan: Tensor
    miss: Tensor


def sinkhorn_transport(
    problems: Problems, epsilon: float = 0.05, iterations: int = 1000, tolerance: float = 1e-6
) -> Transport:
    """The plans P that minimise sum P cost - epsilon entropy(P) under given row and column sums, and their costs.

    ``problems`` come from ``movers_problems`` or ``rotators_problems``, any number of batch dimensions first; points of
    weight 0 are padding, whatever their cost. ``epsilon`` is in the unit of the costs: the smaller, the nearer to
    exact transport, from above, and the slower. Iterations end where potentials move by less than ``tolerance``
    epsilon (or by rounding error), at latest after ``iterations``: look at ``miss``, and raise ``iterations`` or
    ``epsilon`` where it is too large. float64 costs are worth it for epsilon below a thousandth of them.

    Differentiable once in costs and weights (on weights that go on adding up to 1), at the price of about as many
    iterations again and no memory for them: by the implicit function theorem for the plan's marginals.

    Raises ``ValueError`` for an epsilon, iterations or tolerance of 0 or less, and for weights that are negative or do
    not add up to 1.
    Sources: Cuturi, "Sinkhorn Distances", 2013; Peyré and Cuturi, "Computational Optimal Transport", 2019, section 4.4
    (logarithms) and remark 4.9 (annealing); Luise et al., "Differential Properties of Sinkhorn Approximation", 2018,
    section 4 (the gradient of the cost without its entropy).
    """
    for name, value in (("epsilon", epsilon), ("iterations", iterations), ("tolerance", tolerance)):
        if value <= 0:
            raise ValueError(f"{name}: {value} is not above 0")
    cost, x_weights, y_weights = problems
    _check_weights(x_weights, "x_weights")
    _check_weights(y_weights, "y_weights")
    moved = (x_weights > 0)[..., :, None] & (y_weights > 0)[..., None, :]
    cost = cost.masked_fill(~moved, 0)
    plan = _Plan.apply(cost, x_weights, y_weights, epsilon, iterations, tolerance)
    miss = (plan.detach().sum(dim=-2) - y_weights.detach()).abs().sum(dim=-1)
    return Transport((plan * cost).sum(dim=(-2, -1)), plan, miss)


def _check_weights(weights: Tensor, name: str) -> None:
    if not bool((weights >= 0).all()):
        raise ValueError(f"{name}: a weight is negative or not a number")
    if bool(((weights.detach().sum(dim=-1) - 1).abs() > _ROUNDING).any()):
        raise ValueError(f"{name}: weights that do not add up to 1")


class _Plan(Function):
    """P_ij = p_i q_j exp((f_i + g_j - C_ij) / epsilon), for the potentials f and g that give P its row and column sums.

    Backward, for a gradient G of P: with a_i + b_j such that P (G - a - b) adds up to 0 in each row and column,
    dC = -P (G - a - b) / epsilon, dp = a and dq = b, for what changes the sums of P is a + b, and all else moves G.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, x_weights: Tensor, y_weights: Tensor, epsilon: float, iterations: int, tolerance: float
    ) -> Tensor:
        largest = cost.abs().amax(dim=(-2, -1))
        precision = _precision(largest, epsilon, tolerance)
        g = _potentials(cost, x_weights, y_weights, epsilon, iterations, precision * largest)
        from_rows, to_columns = x_weights[..., :, None], y_weights[..., None, :]
        by_row = _exponents(cost - g[..., None, :], to_columns, epsilon).softmax(dim=-1)
        f = -epsilon * _exponents(cost - g[..., None, :], to_columns, epsilon).logsumexp(dim=-1)
        by_column = _exponents(cost - f[..., :, None], from_rows, epsilon).softmax(dim=-2)
        plan = from_rows * by_row
        ctx.save_for_backward(plan, by_row, by_column, precision)
        ctx.epsilon, ctx.iterations = epsilon, iterations
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan, by_row, by_column, precision = ctx.saved_tensors
        stop = precision * gradient.abs().amax(dim=(-2, -1))
        a, b = _centres(gradient, by_row, by_column, ctx.iterations, stop)
        centred = gradient - a[..., :, None] - b[..., None, :]
        return -plan * centred / ctx.epsilon, a, b, None, None, None


def _precision(largest: Tensor, epsilon: float, tolerance: float) -> Tensor:
    """The relative change of potentials at which to stop: never below rounding."""
    wanted = tolerance * epsilon / largest.clamp(min=epsilon)
    return wanted.clamp(min=8 * torch.finfo(largest.dtype).eps)


def _potentials(
    cost: Tensor, x_weights: Tensor, y_weights: Tensor, epsilon: float, iterations: int, stop: Tensor
) -> Tensor:
    """The column potentials g [..., m], with epsilon annealed from the largest cost."""
    largest = cost.abs().amax(dim=(-2, -1), keepdim=True)
    x_weights, y_weights = x_weights[..., :, None], y_weights[..., None, :]
    g = torch.zeros_like(y_weights)
    for iteration in range(iterations):
        temperature = (largest * _ANNEALING**iteration).clamp(min=epsilon)
        f = -temperature * _exponents(cost - g, y_weights, temperature).logsumexp(dim=-1, keepdim=True)
        before, g = g, -temperature * _exponents(cost - f, x_weights, temperature).logsumexp(dim=-2, keepdim=True)
        if iteration % _CHECKS == 0 and _settled((before - g)[..., 0, :], stop, temperature <= epsilon):
            break
    return g[..., 0, :]


def _centres(
    gradient: Tensor, by_row: Tensor, by_column: Tensor, iterations: int, stop: Tensor
) -> tuple[Tensor, Tensor]:
    """What of a gradient belongs to rows, a [..., n], and to columns, b [..., m], found by turns."""
    b = torch.zeros_like(gradient[..., 0, :])
    for iteration in range(iterations):
        a = (by_row * (gradient - b[..., None, :])).sum(dim=-1)
        before, b = b, (by_column * (gradient - a[..., :, None])).sum(dim=-2)
        if iteration % _CHECKS == 0 and _settled(before - b, stop, torch.ones_like(stop, dtype=torch.bool)):
            break
    return a, b


def _exponents(values: Tensor, weights: Tensor, temperature: float | Tensor) -> Tensor:
    """The logarithms of weights exp(-values / temperature); weights of 0 leave a value out of sums."""
    return weights.log() - values / temperature


def _settled(change: Tensor, stop: Tensor, annealed: Tensor) -> bool:
    return bool(((change.abs().amax(dim=-1) <= stop) & annealed.reshape(stop.shape)).all())
