"""Cross-entropy over a large vocabulary by Liger's kernel on a GPU, in the place of ``s2s.losses.vocabulary_loss``."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError, install_command
from s2s.losses.vocabulary_loss import KeptGradients, vocabulary_loss

DEVICE = "cuda"
"""Where the kernel runs."""

ROWS = 1024
"""About how many rows are scored together; Liger's own choice is few where the vocabulary is large beside the width."""


def require(device: torch.device) -> None:
    """Refuse, as a UserError, a device on which the kernel does not run, and a machine on which it is missing."""
    if device.type != DEVICE:
        raise UserError(f"run.fused_loss: the kernel needs a CUDA GPU, and this is a {device.type}; leave the key out")
    if find_spec("liger_kernel") is None:
        raise UserError(f"run.fused_loss: liger-kernel is not installed ({install_command('fused')})")


def fused_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """What ``vocabulary_loss`` gives, but for rounding: products in autocast's type, all else in float32.

    Source: Hsu et al. 2024, "Liger Kernel"; no gradient is left out. Errors: a UserError as by ``require``.
    """
    require(hidden.device)
    if not len(labels):
        return vocabulary_loss(hidden, weight, bias, labels, smoothing)  # Liger divides by the number of rows
    loss, nll = _FusedLoss.apply(hidden, weight, bias, labels, smoothing)
    return loss, nll


class _FusedLoss(KeptGradients):
    """Liger's loss without its backward, which scales gradients where they lie, so that a second one gets them scaled.

    All three parts want gradients if one does: Liger computes none at all where the hidden rows want none.
    """

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        differentiable = any(context.needs_input_grad)
        parts = [part.detach().requires_grad_(differentiable) for part in (hidden, weight, bias)]
        with torch.set_grad_enabled(differentiable):
            loss = _liger(parts, labels, smoothing)
        context.save_for_backward(*(torch.autograd.grad(loss, parts) if differentiable else ()))
        nll = loss.detach() + _unsmoothed(hidden, weight, bias, labels, smoothing)
        context.mark_non_differentiable(nll)
        return loss.detach(), nll


def _liger(parts: list[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    hidden, weight, bias = parts
    budget = -(-ROWS * len(weight) // hidden.numel())  # scores of ROWS rows, in units of the rows' own numbers
    loss: Tensor = liger_fused_linear_cross_entropy(
        hidden,
        weight,
        labels,
        bias,
        label_smoothing=smoothing,
        reduction="sum",
        accum_dtype=torch.float32,
        chunk_mem_const=budget,
    )
    return loss


def _unsmoothed(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float) -> Tensor | float:
    """What the loss lacks of the negative log-likelihood: ``smoothing`` times the labels' distance from the mean score.

    Both hold the normaliser once, so that the difference needs no scores but the labels' and the mean ones.
    """
    if not smoothing:
        return 0.0
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, weight, bias = (part.detach().float() for part in (hidden, weight, bias))
        away = weight.mean(dim=0) - weight[labels]
        return smoothing * ((hidden * away).sum() + (bias.mean() - bias[labels]).sum())
