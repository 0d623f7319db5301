"""Losses as sums with their units, and the scores from which they are computed."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import Counts


class Term(NamedTuple):
    """A loss as a sum, and the field of ``Counts`` by which it is divided."""

    sum: Tensor
    unit: str = "target_tokens"


class Losses(NamedTuple):
    """The scalar to differentiate, and for the log each part as its share of the mean over the whole update."""

    total: Tensor
    parts: dict[str, Tensor]


def share(term: Term, counts: Counts) -> Tensor:
    """Return the term's share of the mean over the update; 0 where the update has no unit of its kind."""
    return term.sum / getattr(counts, term.unit).clamp(min=1)


class Scores(NamedTuple):
    """Scores [N, V] of the next token at the N labelled positions of a batch, row by row, and the labels [N]."""

    logits: Tensor
    labels: Tensor

    def nll(self) -> Tensor:
        """Sum the labels' negative log-probabilities."""
        return functional.cross_entropy(self.logits, self.labels, reduction="sum")

    def log_probs(self) -> Tensor:
        """Return the labels' log-probabilities [N]."""
        return -functional.cross_entropy(self.logits, self.labels, reduction="none")

    def cross_entropy(self, smoothing: float) -> Tensor:
        """Sum the labels' cross-entropies; ``smoothing`` of each label is spread evenly over the vocabulary."""
        if not smoothing:
            return self.nll()
        # The cross-entropy with a uniform label: the mean over the vocabulary of -log p.
        even = self.logits.logsumexp(dim=-1).sum() - self.logits.mean(dim=-1).sum()
        return (1 - smoothing) * self.nll() + smoothing * even


def divergences(p_scores: Tensor, q_scores: Tensor) -> Tensor:
    """Sum KL(p || q) + KL(q || p) over rows of scores [N, V]: sum (p - q) (log p - log q)."""
    p, q = p_scores.log_softmax(dim=-1), q_scores.log_softmax(dim=-1)
    return ((p.exp() - q.exp()) * (p - q)).sum()


def divergence(p_scores: Tensor, q_scores: Tensor) -> Tensor:
    """Sum KL(p || q) over rows of scores [N, V]."""
    p, q = p_scores.log_softmax(dim=-1), q_scores.log_softmax(dim=-1)
    # Torch's arguments are in the opposite order: ``kl_div(input, target)`` is KL(target || input).
    return functional.kl_div(q, p, reduction="sum", log_target=True)


def row_divergences(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) [n] of each row of log-probabilities [n, V]."""
    return (p.exp() * (p - q)).sum(dim=-1)


def at_least_float32(scores: Tensor) -> Tensor:
    """Convert scores to float32; float64 ones stay as they are."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
