"""Heads over the source's last rows: taggers of columns and classifiers of whole sources, each with loss and labels."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.batch import IGNORED
from s2s.heads.chains.chain import local_nll
from s2s.heads.labels import ABSENT
from s2s.heads.logspace import precise
from s2s.heads.multilabel import sparse_zlpr_loss, zlpr_probabilities


class Rows(NamedTuple):
    """What a head reads: the last layer's rows [B, S, D] of the sources, their lengths [B] and the token table."""

    hidden: Tensor
    lengths: Tensor
    table: Tensor


class Chain(Protocol):
    """A model of tags given emissions [B, T, L] and a mask [B, T]."""

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The negative log-likelihood [B] of labels [B, T]."""

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The best labels [B, T] and their score [B]."""


class Softmax(nn.Module):
    """Each tag on its own."""

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The cross-entropies [B] of labels [B, T], summed over a row."""
        return local_nll(precise(emissions), labels.masked_fill(~mask, 0), mask)

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely tag of each column, -100 at padding, and the log-likelihood [B] of all."""
        best, tags = precise(emissions).log_softmax(dim=-1).max(dim=-1)
        return tags.masked_fill(~mask, IGNORED), best.masked_fill(~mask, 0.0).sum(dim=1)


class Tagger(nn.Module):
    """A tag for each marked column: a linear layer and a chain. The loss counts source tokens."""

    unit = "source_tokens"

    def __init__(self, width: int, labels: int, chain: nn.Module) -> None:
        super().__init__()
        self.output = nn.Linear(width, labels)
        self.chain = chain

    def loss(self, rows: Rows, labels: Tensor) -> Tensor:
        """The summed negative log-likelihood of labels [B, <= S]; rows without any or with unknown ones add nothing."""
        marked, nothing = labels != IGNORED, _nothing(self, rows.hidden)
        real = marked.any(dim=1) & (labels != ABSENT).all(dim=1)
        if not bool(real.any()):
            return nothing
        order, mask = _leftwards(marked[real])
        emissions = self._emissions(rows.hidden[real], order)
        losses = cast(Chain, self.chain).nll(emissions, labels[real].gather(1, order).clamp(min=0), mask)
        return losses.sum() + nothing

    def predict(self, rows: Rows, marked: Tensor) -> list[list[int]]:
        """The best tags of each row's marked columns, [B, <= S]."""
        real = marked.any(dim=1)
        found: list[list[int]] = [[] for _ in range(len(marked))]
        if not bool(real.any()):
            return found
        order, mask = _leftwards(marked[real])
        tags, _ = cast(Chain, self.chain).viterbi(self._emissions(rows.hidden[real], order), mask)
        for row, best in zip(real.nonzero()[:, 0].tolist(), tags.tolist(), strict=True):
            found[row] = [tag for tag in best if tag != IGNORED]
        return found

    def _emissions(self, hidden: Tensor, order: Tensor) -> Tensor:
        return self.output(hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1])))


def _leftwards(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The marked columns of each row in order [B, T], padded on the right with others, and which are marked."""
    counts = marked.sum(dim=1)
    order = (~marked).sort(dim=1, stable=True).indices[:, : int(counts.max())]
    return order, torch.arange(order.shape[1], device=marked.device) < counts[:, None]


def _nothing(module: nn.Module, hidden: Tensor) -> Tensor:
    """Zero, with a gradient of zero for every parameter: wrappers want one of each from each batch."""
    return 0.0 * sum((parameter.float().sum() for parameter in module.parameters()), hidden.float().sum())


class Free(nn.Linear):
    """A score for each label of an inventory."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(x)


class Tied(nn.Module):
    """A score for each piece of the vocabulary, by a dense layer and the token embeddings."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """From [B, D] to [B, V]."""
        return functional.linear(torch.tanh(self.dense(x)), table, self.bias)


class MultiLabel(NamedTuple):
    """A loss [B] of scores [B, L] and positives [B, P] padded below 0, and the probabilities that it trains."""

    loss: Callable[[Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]


def _zlpr(scores: Tensor, positives: Tensor) -> Tensor:
    return sparse_zlpr_loss(scores, positives, reduction="none")


def _binary(scores: Tensor, positives: Tensor) -> Tensor:
    """The binary cross-entropies of all labels, summed."""
    targets = torch.zeros(*scores.shape[:-1], scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    targets = targets.scatter(-1, positives + 1, 1.0)[..., 1:]  # column 0 takes the padding
    return functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(dim=-1)


ZLPR = MultiLabel(_zlpr, zlpr_probabilities)
BINARY = MultiLabel(_binary, torch.sigmoid)


class Classifier(nn.Module):
    """A set of labels for the source, from the mean of its rows. The loss counts examples."""

    unit = "examples"

    def __init__(self, output: nn.Module, kind: MultiLabel) -> None:
        super().__init__()
        self.output, self.kind = output, kind

    def loss(self, rows: Rows, labels: Tensor) -> Tensor:
        """The summed loss of labels [B, P]; rows without any add nothing."""
        nothing, real = _nothing(self, rows.hidden), (labels != IGNORED).any(dim=1)
        if not bool(real.any()):
            return nothing
        positives = labels[real].clamp(min=ABSENT)
        return self.kind.loss(self.scores(rows)[real], positives).sum() + nothing

    def scores(self, rows: Rows) -> Tensor:
        """Scores [B, L], above 0 for the labels that are chosen."""
        inside = torch.arange(rows.hidden.shape[1], device=rows.hidden.device) < rows.lengths[:, None]
        mean = rows.hidden.masked_fill(~inside[..., None], 0.0).sum(dim=1) / rows.lengths[:, None]
        return precise(self.output(mean, rows.table))
