"""The heads as modules: taggers of columns and classifiers of whole sources, each with its loss and its labels."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.batch import IGNORED
from s2s.heads.chains.chain import local_nll
from s2s.heads.labels import ABSENT
from s2s.heads.multilabel import sparse_zlpr_loss, zlpr_probabilities
from s2s.losses.terms import at_least_float32


class Rows(NamedTuple):
    """The encoded sources that a head reads: last hidden layer [B, S, D], lengths [B], and the token embeddings."""

    hidden: Tensor
    lengths: Tensor
    table: Tensor


class TagModel(Protocol):
    """A model of tags given emissions [B, T, L] and a mask [B, T]."""

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood [B] of labels [B, T]."""

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best labels [B, T] and their score [B]."""


class Softmax(nn.Module):
    """A ``TagModel`` without transitions: each tag is independent of the others."""

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropies [B] of labels [B, T], summed over a row."""
        return local_nll(at_least_float32(emissions), labels.masked_fill(~mask, 0), mask)

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely tag of each column, -100 at padding, and the log-likelihood [B] of all."""
        best, tags = at_least_float32(emissions).log_softmax(dim=-1).max(dim=-1)
        return tags.masked_fill(~mask, IGNORED), best.masked_fill(~mask, 0.0).sum(dim=1)


class Tagger(nn.Module):
    """A tag for each marked column: a linear layer and a ``TagModel``. Its loss is a mean over source tokens."""

    unit = "source_tokens"

    def __init__(self, width: int, labels: int, chain: nn.Module) -> None:
        super().__init__()
        self.output = nn.Linear(width, labels)
        self.chain = chain

    def loss(self, rows: Rows, labels: Tensor) -> Tensor:
        """Return the summed negative log-likelihood of labels [B, <= S]; rows without any add nothing."""
        marked, zero = labels != IGNORED, _zero(self, rows.hidden)
        # The likelihood of a sequence needs all its tags: a row with an unknown one is left out whole.
        labelled = marked.any(dim=1) & (labels != ABSENT).all(dim=1)
        if not bool(labelled.any()):
            return zero
        order, mask = _left_aligned(marked[labelled])
        gold = labels[labelled].gather(1, order).clamp(min=0)
        return cast(TagModel, self.chain).nll(self._emissions(rows.hidden[labelled], order), gold, mask).sum() + zero

    def predict(self, rows: Rows, marked: Tensor) -> list[list[int]]:
        """Return the best tags of each row's marked columns, [B, <= S]."""
        has_columns = marked.any(dim=1)
        predicted: list[list[int]] = [[] for _ in range(len(marked))]
        if not bool(has_columns.any()):
            return predicted
        order, mask = _left_aligned(marked[has_columns])
        tags, _ = cast(TagModel, self.chain).viterbi(self._emissions(rows.hidden[has_columns], order), mask)
        for row, best in zip(has_columns.nonzero()[:, 0].tolist(), tags.tolist(), strict=True):
            predicted[row] = [tag for tag in best if tag != IGNORED]
        return predicted

    def _emissions(self, hidden: Tensor, order: Tensor) -> Tensor:
        return self.output(hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1])))


def _left_aligned(marked: Tensor) -> tuple[Tensor, Tensor]:
    """Return the marked columns of each row in order [B, T], padded on the right with others, and the mask [B, T]."""
    counts = marked.sum(dim=1)
    order = (~marked).sort(dim=1, stable=True).indices[:, : int(counts.max())]
    return order, torch.arange(order.shape[1], device=marked.device) < counts[:, None]


def _zero(module: nn.Module, hidden: Tensor) -> Tensor:
    """Return 0, with a gradient of 0 for every parameter."""
    # DistributedDataParallel waits for a gradient of every parameter from every batch, also from one without labels.
    # In float32, as a sum that overflows in half precision would be infinite, and 0 times that is nan.
    return 0.0 * sum((parameter.float().sum() for parameter in module.parameters()), hidden.float().sum())


class Free(nn.Linear):
    """A score for each label of an inventory; ``table`` is there because a classifier calls it as it calls ``Tied``."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(x)


class Tied(nn.Module):
    """A score for each piece of the vocabulary, by a dense layer and the token embeddings."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Map [B, D] to [B, V]."""
        return functional.linear(torch.tanh(self.dense(x)), table, self.bias)


class MultiLabel(NamedTuple):
    """A loss [B] of scores [B, L] and positives [B, P] padded with -1, and the probabilities that it trains."""

    loss: Callable[[Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]


def _zlpr(scores: Tensor, positives: Tensor) -> Tensor:
    return sparse_zlpr_loss(scores, positives, reduction="none")


def _binary(scores: Tensor, positives: Tensor) -> Tensor:
    """Return the binary cross-entropies of all labels, summed."""
    targets = torch.zeros(*scores.shape[:-1], scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    targets = targets.scatter(-1, positives + 1, 1.0)[..., 1:]  # column 0 takes the padding
    return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(dim=-1)


ZLPR = MultiLabel(_zlpr, zlpr_probabilities)
BINARY = MultiLabel(_binary, torch.sigmoid)


class Classifier(nn.Module):
    """A set of labels for the source, from the mean of its hidden states. Its loss is a mean over examples."""

    unit = "examples"

    def __init__(self, output: nn.Module, kind: MultiLabel) -> None:
        super().__init__()
        self.output, self.kind = output, kind

    def loss(self, rows: Rows, labels: Tensor) -> Tensor:
        """Return the summed loss of labels [B, P]; rows without any add nothing."""
        zero, labelled = _zero(self, rows.hidden), (labels != IGNORED).any(dim=1)
        if not bool(labelled.any()):
            return zero
        positives = labels[labelled].clamp(min=ABSENT)  # IGNORED, which pads a set, becomes the padding of the losses
        return self.kind.loss(self.scores(rows)[labelled], positives).sum() + zero

    def scores(self, rows: Rows) -> Tensor:
        """Return scores [B, L], above 0 for the labels that are chosen."""
        inside = torch.arange(rows.hidden.shape[1], device=rows.hidden.device) < rows.lengths[:, None]
        mean = rows.hidden.masked_fill(~inside[..., None], 0.0).sum(dim=1) / rows.lengths[:, None]
        return at_least_float32(self.output(mean, rows.table))
