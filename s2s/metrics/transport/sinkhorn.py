"""Entropic transport by Sinkhorn's iteration on logarithms: for batches, on any device, differentiable."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from s2s.metrics.transport.bags import Vectors
from s2s.metrics.transport.batched import Problems
from s2s.metrics.transport.vectors import Embed

logger = logging.getLogger("s2s")

_CHECKS = 10
"""Iterations between two convergence checks. A check copies a number from the device, which waits for its queue."""

_ANNEALING = 0.9
"""Factor by which each iteration lowers the weight of the entropy, until it is epsilon."""

_MISS = 1e-3
"""Error of a plan's column sums, as a share of the plan, from which a warning counts the plan."""

_ROUNDING = 1e-5
"""Largest distance of a sum of weights from 1."""


class Transport(NamedTuple):
    """The mean cost [...] of the plans [..., n, m], and the error [...] of their column sums.

    ``miss`` is the sum of absolute errors of the columns; row sums are exact.
    """

    cost: Tensor
    plan: Tensor
    miss: Tensor


def sinkhorn_transport(
    problems: Problems, epsilon: float = 0.05, iterations: int = 1000, tolerance: float = 1e-6
) -> Transport:
    """Return the plans P that minimise sum P cost - epsilon entropy(P) under the given row and column sums.

    ``problems`` come from ``movers_problems`` or ``rotators_problems``, any number of batch dimensions first; points of
    weight 0 are padding, whatever their cost. ``epsilon`` is in the unit of the costs: the smaller, the nearer to
    exact transport, from above, and the slower. Iterations end where potentials move by less than ``tolerance``
    epsilon (or by rounding error), at latest after ``iterations``: look at ``miss``, and raise ``iterations`` or
    ``epsilon`` where it is too large. float64 costs are worth it for epsilon below a thousandth of them.

    Differentiable once, in costs and in weights that keep adding up to 1, by the implicit function theorem for the
    plan's marginals: the backward pass iterates about as often as the forward pass, and stores no iteration.

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
    """Return the relative change of potentials at which to stop: never below rounding error."""
    wanted = tolerance * epsilon / largest.clamp(min=epsilon)
    return wanted.clamp(min=8 * torch.finfo(largest.dtype).eps)


def _potentials(
    cost: Tensor, x_weights: Tensor, y_weights: Tensor, epsilon: float, iterations: int, stop: Tensor
) -> Tensor:
    """Return the column potentials g [..., m]."""
    largest = cost.abs().amax(dim=(-2, -1), keepdim=True)
    x_weights, y_weights = x_weights[..., :, None], y_weights[..., None, :]
    g = torch.zeros_like(y_weights)
    # Annealing from the largest cost: at a small epsilon from the start, potentials move by epsilon an iteration.
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
    """Return the parts of a gradient that change row sums, a [..., n], and column sums, b [..., m], by alternation."""
    b = torch.zeros_like(gradient[..., 0, :])
    for iteration in range(iterations):
        a = (by_row * (gradient - b[..., None, :])).sum(dim=-1)
        before, b = b, (by_column * (gradient - a[..., :, None])).sum(dim=-2)
        if iteration % _CHECKS == 0 and _settled(before - b, stop, torch.ones_like(stop, dtype=torch.bool)):
            break
    return a, b


def _exponents(values: Tensor, weights: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log(weights exp(-values / temperature)); a weight of 0 gives -inf, which leaves the value out of sums."""
    return weights.log() - values / temperature


def _settled(change: Tensor, stop: Tensor, annealed: Tensor) -> bool:
    return bool(((change.abs().amax(dim=-1) <= stop) & annealed.reshape(stop.shape)).all())


@torch.no_grad()
def corpus_sinkhorn_distances(
    hypotheses: Sequence[str],
    references: Sequence[str],
    embed: Embed,
    problems: Callable[[Tensor, Tensor, Tensor, Tensor], Problems],
    epsilon: float = 0.05,
    iterations: int = 1000,
    batch: int = 64,
    on_progress: Callable[[int], object] = lambda _: None,
) -> Vectors:
    """Return the distance [N] of each hypothesis from its reference, on the device of the vectors.

    ``problems`` is ``rotators_problems`` or ``movers_problems``; ``epsilon`` and ``iterations`` are those of
    ``sinkhorn_transport``; ``batch`` pairs are solved together; ``on_progress`` gets the number of pairs done since its
    last call. A warning of the logger ``s2s`` counts the plans that did not converge.
    Raises ``ValueError`` for texts that do not pair, and for vectors that ``problems`` refuses.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    distances, missed = np.empty(len(hypotheses)), 0
    for start in range(0, len(hypotheses), batch):
        rows = slice(start, start + batch)
        vectors = [[torch.as_tensor(embed(text)) for text in texts[rows]] for texts in (hypotheses, references)]
        x, y = (pad_sequence(sentences, batch_first=True) for sentences in vectors)
        x_lengths, y_lengths = (torch.tensor(list(map(len, sentences)), device=x.device) for sentences in vectors)
        plans = sinkhorn_transport(problems(x, y, x_lengths, y_lengths), epsilon, iterations)
        distances[rows] = plans.cost.double().cpu().numpy()
        missed += int((plans.miss > _MISS).sum())
        on_progress(len(plans.cost))
    if missed:
        logger.warning(
            "%d of %d transport plans did not converge: raise iterations or epsilon", missed, len(hypotheses)
        )
    return distances
