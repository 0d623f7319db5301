"""Cross-entropy over a large vocabulary, a few rows at a time, so that the scores of all rows never exist at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from s2s.losses.terms import at_least_float32

VocabularyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""``vocabulary_loss`` or another function that computes the same."""

ROWS = 256
"""Number of rows scored at a time: few enough that their scores stay in the cache, enough to occupy all cores."""


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropies of labels [N], with and without smoothing, given hidden [N, D], weight [V, D], bias [V].

    The scores are hidden weight^T + bias; the share ``smoothing`` of each label is spread evenly over the vocabulary.
    The second result has no gradient. The forward computes the gradients too, as Liger's fused loss does (Hsu et al.
    2024): a backward that recomputed the scores would cost one more product. They cannot be differentiated again.
    """
    loss, nll = _VocabularyLoss.apply(hidden, weight, bias, labels, smoothing)
    return loss, nll


class KeptGradients(Function):
    """A loss of hidden rows, weight, bias and two constants, whose forward saves the gradients of the first three.

    The backward never changes them in place, since methods may run it more than once.
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
        # Autocast off, so that the types chosen here hold: products in half precision, sums in float32.
        with torch.autocast(device, enabled=False):
            parts = _Parts(hidden.to(dtype), weight.to(dtype), bias.to(dtype), smoothing, any(context.needs_input_grad))
            sums = [parts.add(slice(start, start + ROWS), labels) for start in range(0, len(labels), ROWS)]
        loss, nll = torch.stack(sums).sum(dim=0) if sums else hidden.new_zeros(2)
        context.save_for_backward(
            # Not strict, as there are no gradients where none are wanted.
            *(part.to(like.dtype) for part, like in zip(parts.gradients, (hidden, weight, bias), strict=False))
        )
        context.mark_non_differentiable(nll)
        return loss, nll


class _Parts:
    """The gradients with respect to hidden rows, weight and bias, added up slice of rows by slice."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, smoothing: float, differentiable: bool) -> None:
        self.hidden, self.weight, self.bias, self.smoothing = hidden, weight, bias, smoothing
        self.gradients: list[Tensor] = []
        if differentiable:
            kinds = [(part, torch.promote_types(part.dtype, torch.float32)) for part in (hidden, weight, bias)]
            self.gradients = [torch.zeros_like(part, dtype=dtype) for part, dtype in kinds]

    def add(self, rows: slice, labels: Tensor) -> Tensor:
        """Return the loss and the negative log-likelihood of a slice of rows as [2], and add its gradients."""
        logits = at_least_float32(functional.linear(self.hidden[rows], self.weight, self.bias))
        gold = labels[rows, None]
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        nll = (normaliser - logits.gather(1, gold)).sum()
        even = (normaliser[:, 0] - logits.mean(dim=-1)).sum()
        if self.gradients:
            # In place: the scores' memory becomes that of the probabilities.
            self._differentiate(rows, logits.sub_(normaliser).exp_(), gold)
        return torch.stack([(1 - self.smoothing) * nll + self.smoothing * even, nll])

    def _differentiate(self, rows: slice, gradient: Tensor, gold: Tensor) -> None:
        """Turn a slice's probabilities, in place, into dLoss/dScores, and add the gradients that follow from it."""
        # The gradient of a score is p - (1 - smoothing) [it is the label's] - smoothing / V.
        gradient.scatter_add_(1, gold, gradient.new_full(gold.shape, self.smoothing - 1))
        if self.smoothing:
            gradient -= self.smoothing / gradient.shape[1]
        hidden, weight, bias = self.gradients
        bias += gradient.sum(dim=0)
        gradient = gradient.to(self.weight.dtype)
        hidden[rows] = gradient @ self.weight
        # ``addmm_`` needs one type; it adds the product without a temporary matrix of the table's size.
        if weight.dtype == gradient.dtype:
            weight.addmm_(gradient.T, self.hidden[rows])
        else:
            weight += gradient.T @ self.hidden[rows]
