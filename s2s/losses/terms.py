"""Losses as sums with units, and the scores that they are computed from."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import Counts


class Term(NamedTuple):
    """A loss as a sum and the unit that it is divided by: a field of ``Counts``."""

    sum: Tensor
    unit: str = "target_tokens"


class Losses(NamedTuple):
    """What a step needs: the scalar to differentiate, and each part as its share of the global mean, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


def share(term: Term, counts: Counts) -> Tensor:
    """The term's share of the update's mean; an update without a unit has a share of 0."""
    return term.sum / getattr(counts, term.unit).clamp(min=1)


class Scores(NamedTuple):
    """Scores [N, V] of the next token at the N labelled positions of a batch, row after row, and the labels [N]."""

    logits: Tensor
    labels: Tensor

    def nll(self) -> Tensor:
        """The sum of the labels' negative log-probabilities."""
        return functional.cross_entropy(self.logits, self.labels, reduction="sum")

    def log_probs(self) -> Tensor:
        """The labels' log-probabilities [N]."""
        return -functional.cross_entropy(self.logits, self.labels, reduction="none")

    def cross_entropy(self, smoothing: float) -> Tensor:
        """The sum of the labels' cross-entropies, ``smoothing`` of each label spread evenly over the vocabulary."""
        if not smoothing:
            return self.nll()
        even = self.logits.logsumexp(dim=-1).sum() - self.logits.mean(dim=-1).sum()
        return (1 - smoothing) * self.nll() + smoothing * even


def divergences(ours: Tensor, theirs: Tensor) -> Tensor:
    """The sum of KL(p || q) + KL(q || p) over rows of scores [N, V]: sum (p - q) (log p - log q)."""
    p, q = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum()


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """The sum of KL(p || q) over rows of scores [N, V]."""
    return functional.kl_div(theirs.log_softmax(dim=-1), ours.log_softmax(dim=-1), reduction="sum", log_target=True)


def at_least_float32(scores: Tensor) -> Tensor:
    """The scores in float32, or in float64 where they already are."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
