"""Cross-entropy over a large vocabulary by Liger's GPU kernel, in place of ``s2s.losses.vocabulary_loss``."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import IGNORED
from s2s.errors import UserError, install_command
from s2s.losses.vocabulary_loss import KeptGradients, vocabulary_loss
from s2s.model.output_rows import filled

DEVICE = "cuda"
"""Kind of device on which the kernel runs; Triton's interpreter, for tests, runs it on "cpu"."""

ROWS = 1024
"""About the number of rows scored at a time; Liger's default is too few where the vocabulary far exceeds the width."""


def require(device: torch.device) -> None:
    """Raise a UserError where the kernel does not run on the device or is not installed."""
    if device.type != DEVICE:
        raise UserError(f"run.fused_loss: the kernel needs a CUDA GPU, and this is a {device.type}; leave the key out")
    if find_spec("liger_kernel") is None:
        raise UserError(f"run.fused_loss: liger-kernel is not installed ({install_command('fused')})")


def fused_loss(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Compute the same as ``vocabulary_loss``, up to rounding: products in autocast's type, all else in float32.

    Liger leaves out rows with the same label. Source: Hsu et al. 2024, "Liger Kernel". Errors: those of ``require``.
    """
    require(hidden.device)
    if not len(labels):
        return vocabulary_loss(hidden, weight, bias, labels, smoothing)  # Liger would divide by 0 rows
    loss, nll = _FusedLoss.apply(hidden, weight, bias, labels, smoothing)
    return loss, nll


class _FusedLoss(KeptGradients):
    """Liger's forward with a backward of this project.

    Liger's own backward scales the stored gradients in place, so a second backward would scale them twice. If one part
    needs a gradient, all three ask for one: Liger computes none at all where the hidden rows need none.
    """

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        differentiable = any(context.needs_input_grad)
        parts = [part.detach().requires_grad_(differentiable) for part in (hidden, weight, bias)]
        with torch.set_grad_enabled(differentiable):
            # A filled table's rows of zeros have a bias of -inf: no share of a softmax, so no gradient.
            wide = parts[0], filled(parts[1], len(hidden)), filled(parts[2], len(hidden), -math.inf)
            if len(wide[1]) == len(weight):
                loss = _liger(wide, labels, smoothing)
                nll = loss + _unsmoothed(parts, labels, smoothing)
            else:
                # Liger would spread the smoothing over those rows too.
                nll = _liger(wide, labels, 0.0)
                loss = nll - _unsmoothed(parts, labels, smoothing)
        context.save_for_backward(*(torch.autograd.grad(loss, parts) if differentiable else ()))
        nll = nll.detach()
        context.mark_non_differentiable(nll)
        return loss.detach(), nll


def _liger(parts: Sequence[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    hidden, weight, bias = parts
    # Liger takes the scores' memory as a multiple of that of ``hidden``: here that of ROWS rows of scores.
    budget = -(-ROWS * len(weight) // hidden.numel())
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


def _unsmoothed(parts: Sequence[Tensor], labels: Tensor, smoothing: float) -> Tensor | float:
    """Return the negative log-likelihood minus the smoothed loss.

    It is ``smoothing`` (mean score - label's score), summed: the normaliser cancels, so no further scores are needed.
    """
    if not smoothing:
        return 0.0
    with torch.autocast(labels.device.type, enabled=False):
        hidden, weight, bias = (part.float() for part in parts)
        counted, gold = labels != IGNORED, labels.clamp(min=0)
        means = weight.mean(dim=0) - functional.embedding(gold, weight)
        rows = (hidden * means).sum(dim=1) + bias.mean() - bias[gold]
        return smoothing * (rows * counted).sum()
