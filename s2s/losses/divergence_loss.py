"""Divergences of a student's next token from that of teachers, a few rows at a time, as in ``vocabulary_loss``.

Whole scores of student and teachers, with all that a divergence keeps for its backward, would be several times the
largest tensor of a step.
"""

from collections.abc import Callable, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor

from s2s.losses.vocabulary_loss import KeptGradients, OutputLayer, OutputRows, slices

Divergence = Callable[[Tensor, Tensor], Tensor]
"""A function of the log-probabilities [n, V] of teacher and student that returns the divergence [n] of each row."""


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
        layer = OutputLayer(OutputRows(hidden, weight, bias), any(context.needs_input_grad))
        constants = [teacher.cast() for teacher in teachers]
        total = weights.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in slices(hidden):
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
