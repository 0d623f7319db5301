"""Cross-entropy over a large vocabulary, a few rows at a time: the scores of all rows are never in memory at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from s2s.losses.terms import at_least_float32

VocabularyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""``vocabulary_loss``, or what computes the same in another way."""

ROWS = 256
"""How many rows are scored together: their scores stay in the cache, and each product still fills the processor."""


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of labels [N] with scores hidden [N, D] weight^T [D, V] + bias [V], and without smoothing, summed.

    ``smoothing`` of each label is spread evenly over the vocabulary. The second result has no gradient. Gradients are
    computed along with the loss, as Liger's fused loss does (Hsu et al. 2024), so they cannot be differentiated again.
    """
    loss, nll = _VocabularyLoss.apply(hidden, weight, bias, labels, smoothing)
    return loss, nll


class KeptGradients(Function):
    """A loss of hidden rows, weight, bias and two more, whose gradients with respect to the three the forward saves.

    The backward leaves them as they are: methods may ask for it more than once.
    """

    @staticmethod
    @once_differentiable
    def backward(context: Any, loss: Tensor, nll: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return (*(loss.to(part.dtype) * part for part in context.saved_tensors), None, None)


class _VocabularyLoss(KeptGradients):
    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            parts = _Parts(hidden.to(dtype), weight.to(dtype), bias.to(dtype), smoothing, any(context.needs_input_grad))
            sums = [parts.add(slice(start, start + ROWS), labels) for start in range(0, len(labels), ROWS)]
        loss, nll = torch.stack(sums).sum(dim=0) if sums else hidden.new_zeros(2)
        context.save_for_backward(
            *(part.to(like.dtype) for part, like in zip(parts.gradients, (hidden, weight, bias), strict=False))
        )
        context.mark_non_differentiable(nll)
        return loss, nll


class _Parts:
    """The loss of some rows after others, and the gradients of all so far with respect to rows, weight and bias."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, smoothing: float, differentiable: bool) -> None:
        self.hidden, self.weight, self.bias, self.smoothing = hidden, weight, bias, smoothing
        self.gradients: list[Tensor] = []
        if differentiable:
            kinds = [(part, torch.promote_types(part.dtype, torch.float32)) for part in (hidden, weight, bias)]
            self.gradients = [torch.zeros_like(part, dtype=dtype) for part, dtype in kinds]

    def add(self, rows: slice, labels: Tensor) -> Tensor:
        """The rows' loss and negative log-likelihood, [2]."""
        logits, own = at_least_float32(functional.linear(self.hidden[rows], self.weight, self.bias)), labels[rows, None]
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        nll = (normaliser - logits.gather(1, own)).sum()
        even = (normaliser[:, 0] - logits.mean(dim=-1)).sum()
        if self.gradients:
            self._differentiate(rows, logits.sub_(normaliser).exp_(), own)
        return torch.stack([(1 - self.smoothing) * nll + self.smoothing * even, nll])

    def _differentiate(self, rows: slice, gradient: Tensor, own: Tensor) -> None:
        """Add what the rows' probabilities, which become dLoss/dScores, give."""
        gradient.scatter_add_(1, own, gradient.new_full(own.shape, self.smoothing - 1))
        if self.smoothing:
            gradient -= self.smoothing / gradient.shape[1]
        hidden, weight, bias = self.gradients
        bias += gradient.sum(dim=0)
        gradient = gradient.to(self.weight.dtype)
        hidden[rows] = gradient @ self.weight
        if weight.dtype == gradient.dtype:
            weight.addmm_(gradient.T, self.hidden[rows])
        else:
            weight += gradient.T @ self.hidden[rows]
