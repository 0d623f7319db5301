"""Divergences of a student's next token from that of teachers, a few rows at a time, as in ``vocabulary_loss``.

Whole scores of student and teachers, with all that a divergence keeps for its backward, would be several times the
largest tensor of a step.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.losses.terms import Scores, at_least_float32, divergence, divergences, row_divergences
from s2s.losses.vocabulary_loss import KeptGradients, OutputLayer, slices
from s2s.model.backbone import Backbone
from s2s.model.output_rows import OutputRows

FORMULA_ROWS = 128
"""Number of rows at a time on a GPU: autograd keeps several tensors as large as the scores of a slice for a formula."""
Divergence = Callable[[Tensor, Tensor], Tensor]
"""A function of the log-probabilities [n, V] of teacher and student that returns the divergence [n] of each row."""


class Shares(NamedTuple):
    """The factors of the cross-entropies of two views, and of their divergence."""

    first: float
    second: float
    divergence: float


def from_constant(first: Tensor, second: Tensor) -> Tensor:
    """Sum KL(p_1 || p_2) over rows of scores [n, V], of which the first are constants."""
    return divergence(first.detach(), second)


def paired_loss(
    output: OutputRows,
    labels: Tensor,
    shares: Shares,
    smoothing: float,
    apart: Callable[[Tensor, Tensor], Tensor] = divergences,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum first CE_1 + second CE_2 + divergence D(p_1, p_2) over two views of N labels; D is ``apart`` of the scores.

    Rows and labels are [2N], those of the first view first. Returns this sum, which alone has a gradient, the part of
    the divergence in it, and the first view's negative log-likelihood. The gradients cannot be differentiated again.
    """
    loss, penalty, nll = _PairedLoss.apply(*output, labels, shares, smoothing, apart)
    return loss, penalty, nll


class _PairedLoss(KeptGradients):
    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        shares: Shares,
        smoothing: float,
        apart: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer, half = OutputLayer(OutputRows(hidden, weight, bias), context.needs_input_grad), len(hidden) // 2
        differentiable = bool(layer.gradients)
        sums = hidden.new_zeros(3, dtype=torch.promote_types(hidden.dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in slices(hidden[:half], FORMULA_ROWS):
                pair = rows, slice(half + rows.start, half + rows.stop)
                logits = [layer.output.scores(view).requires_grad_(differentiable) for view in pair]
                with torch.set_grad_enabled(differentiable):
                    views = [Scores(part, labels[view]) for part, view in zip(logits, pair, strict=True)]
                    first, penalty = views[0].cross_entropy(smoothing), shares.divergence * apart(*logits)
                    loss = shares.first * first + penalty
                    if shares.second:
                        loss = loss + shares.second * views[1].cross_entropy(smoothing)
                if differentiable:
                    for view, gradient in zip(pair, torch.autograd.grad(loss, logits), strict=True):
                        layer.add(view, gradient)
                nll = first if not smoothing else views[0].nll()
                sums += torch.stack([loss, penalty, nll]).detach()
        loss, penalty, nll = sums.unbind()
        context.save_for_backward(*layer.gradients_like((hidden, weight, bias)))
        context.mark_non_differentiable(penalty, nll)
        return loss.clone(), penalty.clone(), nll.clone()


def divergence_at(model: Backbone, constant: Tensor, rows: Tensor) -> Tensor:
    """Sum KL(p || q) over rows [N, D] of the last layer: p at ``constant`` rows, q at the others, which have gradients.

    The table of the output has none, which spares a product.
    """
    output = model.output(rows)
    if output is None:
        scores = at_least_float32(model.logits(constant.detach())).detach()
        return divergence(scores, at_least_float32(model.logits(rows)))
    with torch.no_grad():
        teacher = model.output(constant)
    assert teacher is not None
    output = OutputRows(output.hidden, output.weight.detach(), output.bias.detach())
    ones = torch.ones(len(rows), device=rows.device, dtype=torch.promote_types(rows.dtype, torch.float32))
    return divergence_loss(output, [teacher], ones, row_divergences, 1.0)


def divergence_loss(
    student: OutputRows, teachers: Sequence[OutputRows], weights: Tensor, divergence: Divergence, temperature: float
) -> Tensor:
    """Sum temperature^2 ``weights`` [N] times the divergence at each of N rows; the teachers are constants.

    The teacher's distribution is the mean of theirs. All scores are divided by the temperature, which makes gradients
    smaller by its square; the factor makes up for that (Hinton et al. 2015, section 2). The gradients cannot be
    differentiated again.
    """
    loss: Tensor = _DivergenceLoss.apply(*student, teachers, weights, divergence, temperature)
    return loss


class _DivergenceLoss(KeptGradients):
    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        teachers: Sequence[OutputRows],
        weights: Tensor,
        divergence: Divergence,
        temperature: float,
    ) -> Tensor:
        layer = OutputLayer(OutputRows(hidden, weight, bias), context.needs_input_grad)
        constants = [teacher.cast() for teacher in teachers]
        total = weights.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in slices(hidden, FORMULA_ROWS):
                p = mean_log_probs([teacher.scores(rows) / temperature for teacher in constants])
                scores = layer.output.scores(rows).requires_grad_(bool(layer.gradients))
                # Gradients of the scores by autograd, so that a divergence is written down as its formula alone.
                with torch.set_grad_enabled(bool(layer.gradients)):
                    rates = temperature**2 * weights[rows]
                    loss = (rates * divergence(p, (scores / temperature).log_softmax(dim=-1))).sum()
                if layer.gradients:
                    layer.add(rows, torch.autograd.grad(loss, scores)[0])
                total = total + loss.detach()
        context.save_for_backward(*layer.gradients_like((hidden, weight, bias)))
        return total


def mean_log_probs(scores: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of the softmaxes of scores, each [n, V]."""
    log_probs = [part.log_softmax(dim=-1) for part in scores]
    return log_probs[0] if len(log_probs) == 1 else torch.stack(log_probs).logsumexp(dim=0) - log(len(log_probs))
