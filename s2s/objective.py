"""The objective: model and losses in one module, so that every pass of a step happens inside one forward."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.batch import IGNORED, Batch, Counts, count
from s2s.errors import UserError
from s2s.model import PrefixTransformer


@dataclass
class ObjectiveSettings:
    """A recipe's ``objective:``."""

    label_smoothing: float = 0.0  # share of the probability that is spread evenly over the vocabulary

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.label_smoothing: {self.label_smoothing} is not in [0, 1)")


class Term(NamedTuple):
    """A loss as a sum and the unit that it is divided by: a field of ``Counts``."""

    sum: Tensor
    unit: str


class Losses(NamedTuple):
    """What a step needs: the scalar to differentiate, and each part as its share of the global mean, for the log."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """Teacher forcing: the cross-entropy of each target token given the source and the gold prefix."""

    def __init__(self, model: PrefixTransformer, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = settings.label_smoothing

    def forward(self, batch: Batch, step: int = 0, counts: Counts | None = None) -> Losses:  # noqa: ARG002
        """The losses of a batch at a step.

        ``counts`` are the units of the whole update, over all micro-batches and processes; without them the batch
        stands alone. The losses of the update's batches add up to the loss of one large batch.
        """
        memory = self.model.encode(batch.source, batch.source_lengths)
        hidden = self.model.decode(batch.target, memory)
        terms, nll = self._cross_entropy(hidden, batch.labels)
        counts = count(batch) if counts is None else counts
        total = torch.stack([_share(term, counts) for term in terms.values()]).sum()
        seen = {**terms, "nll": Term(nll, "target_tokens")}
        return Losses(total, {name: _share(term, counts).detach() for name, term in seen.items()})

    def _cross_entropy(self, hidden: Tensor, labels: Tensor) -> tuple[dict[str, Term], Tensor]:
        """The smoothed loss and the plain negative log-likelihood, summed; scores only where there is a label."""
        real = labels != IGNORED
        logits = self.model.logits(hidden[real]).float()
        nll = functional.cross_entropy(logits, labels[real], reduction="sum")
        if not self.label_smoothing:
            return {"cross_entropy": Term(nll, "target_tokens")}, nll
        even = logits.logsumexp(dim=-1).sum() - logits.mean(dim=-1).sum()
        smooth = (1 - self.label_smoothing) * nll + self.label_smoothing * even
        return {"cross_entropy": Term(smooth, "target_tokens")}, nll


def _share(term: Term, counts: Counts) -> Tensor:
    """The term's share of the update's mean; an update without a unit has a share of 0."""
    return term.sum / getattr(counts, term.unit).clamp(min=1)
