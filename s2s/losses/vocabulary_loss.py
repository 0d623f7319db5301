"""Cross-entropy over a large vocabulary, a few rows at a time, so that the scores of all rows never exist at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from s2s.batch import IGNORED
from s2s.model.output_rows import OutputRows

VocabularyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""``vocabulary_loss`` or another function that computes the same."""

ROWS = 256
"""Number of rows scored at a time: few enough that their scores stay in the cache, enough to occupy all cores."""
GPU_ROWS = 1024
"""The same on a GPU, where each slice adds to the whole gradient of the table: the rows of ``fused_loss``."""


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropies of labels [N], with and without smoothing, given hidden [N, D], weight [V, D], bias [V].

    The scores are hidden weight^T + bias; the share ``smoothing`` of each label is spread evenly over the vocabulary.
    Rows with the label ``IGNORED`` add nothing; on a processor it is faster to leave them out, on a GPU to keep them.
    The second result has no gradient. The forward computes the gradients too, as Liger's fused loss does (Hsu et al.
    2024): a backward that recomputed the scores would cost one more product. They cannot be differentiated again.
    """
    loss, nll = _VocabularyLoss.apply(hidden, weight, bias, labels, smoothing)
    return loss, nll


class KeptGradients(Function):
    """A loss of hidden rows, weight, bias and constants, whose forward saves the gradients of the first three.

    The backward never changes them in place, since methods may run it more than once.
    """

    @staticmethod
    @once_differentiable
    def backward(context: Any, loss: Tensor, *constants: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        kept = [loss.to(part.dtype) * part for part in context.saved_tensors]
        return (*kept, *[None] * (len(context.needs_input_grad) - len(kept)))


class _VocabularyLoss(KeptGradients):
    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        # Autocast off, so that the layer's types hold: products in half precision, sums in float32.
        layer = OutputLayer(OutputRows(hidden, weight, bias), context.needs_input_grad)
        with torch.autocast(hidden.device.type, enabled=False):
            parts = _Parts(layer, smoothing, labels, counted(labels))
            sums = [parts.add(rows) for rows in slices(hidden)]
        loss, nll = torch.stack(sums).sum(dim=0) if sums else hidden.new_zeros(2)
        context.save_for_backward(*layer.gradients_like((hidden, weight, bias)))
        context.mark_non_differentiable(nll)
        return loss, nll


def slices(rows: Tensor, gpu_rows: int = GPU_ROWS) -> list[slice]:
    """Return the slices of ``ROWS`` rows, on a GPU of ``gpu_rows``."""
    size = ROWS if rows.device.type == "cpu" else gpu_rows
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]


class OutputLayer:
    """The output layer over some rows, and its gradients, added up slice of rows by slice.

    ``needed`` says which of hidden rows, weight and bias need one. Rows alone, as over a frozen table, have one alone.
    Weight and bias, and their gradients, have the W rows of a filled table.
    """

    def __init__(self, output: OutputRows, needed: Sequence[bool]) -> None:
        self.output = output.cast()
        self.gradients: list[Tensor] = []
        if any(needed[:3]):
            parts = self.output[:3] if any(needed[1:3]) else self.output[:1]
            kinds = [(part, torch.promote_types(part.dtype, torch.float32)) for part in parts]
            self.gradients = [torch.zeros_like(part, dtype=dtype) for part, dtype in kinds]

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Add the gradients that follow from those of a slice's scores [n, V], or [n, W] with zeros after V."""
        own_hidden, own_weight, *_ = self.output
        wide = self.output.wide(gradient)
        if len(self.gradients) == 1:
            self.gradients[0][rows] = wide @ own_weight
            return
        hidden, weight, bias = self.gradients
        bias[: gradient.shape[1]] += gradient.sum(dim=0)
        hidden[rows] = wide @ own_weight
        # ``addmm_`` needs one type; it adds the product without a temporary matrix of the table's size.
        if weight.dtype == wide.dtype:
            weight.addmm_(wide.T, own_hidden[rows])
        else:
            weight += wide.T @ own_hidden[rows]

    def gradients_like(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients in the types and sizes of hidden rows, weight and bias; none where none are wanted."""
        return [part[: len(like)].to(like.dtype) for part, like in zip(self.gradients, parts, strict=False)]


def counted(labels: Tensor) -> Tensor | None:
    """Return which labels [N] count, or None where all do; a GPU, which would have to be waited for, is not asked."""
    mask = labels != IGNORED
    return None if labels.device.type == "cpu" and bool(mask.all()) else mask


class _Parts(NamedTuple):
    """The output layer of a cross-entropy, the labels [N], and which of them count (None: all)."""

    layer: OutputLayer
    smoothing: float
    labels: Tensor
    counted: Tensor | None

    def add(self, rows: slice) -> Tensor:
        """Return the loss and the negative log-likelihood of a slice of rows as [2], and add its gradients."""
        wide = self.layer.output.wide_scores(rows)
        logits = wide[:, : self.layer.output.pieces]
        mask = None if self.counted is None else self.counted[rows, None]
        gold = self.labels[rows, None] if mask is None else self.labels[rows, None].clamp(min=0)
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        nll, even = normaliser - logits.gather(1, gold), normaliser - logits.mean(dim=-1, keepdim=True)
        if mask is not None:
            nll, even = nll.where(mask, 0), even.where(mask, 0)
        if self.layer.gradients:
            # With an infinite normaliser the probabilities of a row that does not count are 0, in the same pass.
            divisor = normaliser if mask is None else normaliser.masked_fill(~mask, math.inf)
            # In place: the scores' memory becomes that of the probabilities, and ``wide`` stays 0 after the pieces.
            self._differentiate(logits.sub_(divisor).exp_(), gold, mask)
            self.layer.add(rows, wide)
        total = nll.sum()
        return torch.stack([(1 - self.smoothing) * total + self.smoothing * even.sum(), total])

    def _differentiate(self, gradient: Tensor, gold: Tensor, mask: Tensor | None) -> None:
        """Turn a slice's probabilities, in place, into dLoss/dScores."""
        # The gradient of a score is p - (1 - smoothing) [it is the label's] - smoothing / V.
        weight = gradient.new_ones(gold.shape) if mask is None else mask.to(gradient.dtype)
        gradient.scatter_add_(1, gold, weight * (self.smoothing - 1))
        if self.smoothing:
            gradient -= weight * (self.smoothing / gradient.shape[1])
