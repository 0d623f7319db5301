"""Losses on single tokens: graduated label smoothing, unlikelihood and MixCE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.ranges import Share, Strength
from s2s.errors import UserError
from s2s.losses.terms import Term
from s2s.mitigations.base import Composition, LossMethod, LossTerms, StepContext, mixed


@dataclass
class GraduatedLabelSmoothing(LossMethod):
    """(1 - weight) CE + weight CE_graduated, whose labels are smoothed more where the model is more confident.

    The confidence is the probability of the model's first choice, a constant: above ``high`` the share ``smooth_high``
    of the label is spread over the vocabulary, below ``low`` the share ``smooth_low``, between them ``smooth``. Source:
    Wang et al. 2020, section 5, with its numbers. Cost: none. Teacher forcing at weight 0, or with all shares 0. It
    replaces ``objective.label_smoothing``, which has to be 0.
    """

    high: Share = 0.7  # confidence above which smooth_high is spread
    low: Share = 0.3  # confidence below which smooth_low is spread
    smooth_high: Share = 0.3  # share of a label
    smooth: Share = 0.1  # likewise, between low and high
    smooth_low: Share = 0.0  # likewise

    def teaches(self) -> set[str]:
        return set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise UserError(f"low: {self.low} is above high: {self.high}")

    def refuse(self, composition: Composition) -> str | None:
        if composition.label_smoothing:
            return "it replaces objective.label_smoothing; set that to 0"
        return None

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        scores = context.passes.score(fed)
        log_probs = scores.logits.log_softmax(dim=-1)
        sure = log_probs.detach().amax(dim=-1).exp()
        # ``mean`` over the vocabulary below is the cross-entropy against the uniform distribution.
        smoothing = torch.full_like(sure, self.smooth)
        smoothing = smoothing.masked_fill(sure > self.high, self.smooth_high).masked_fill(
            sure < self.low, self.smooth_low
        )
        nll = -log_probs.gather(1, scores.labels[:, None])[:, 0]
        graduated = ((1 - smoothing) * nll - smoothing * log_probs.mean(dim=-1)).sum()
        return LossTerms(mixed(self.share(context), nll.sum(), "graduated", graduated), nll.sum())


@dataclass
class Unlikelihood(LossMethod):
    """CE + weight alpha sum_t sum_{c in C_t} -log(1 - p(c | t)), C_t the target's tokens before t, without token t.

    Each candidate counts once a column. Source: Welleck et al. 2020, section 5.1 (token level). Cost: none. Teacher
    forcing at weight 0 or alpha 0. It punishes all repetition, intended repetition included, and only on gold prefixes.
    """

    alpha: Strength = 1.0  # strength of the penalty

    def teaches(self) -> set[str]:
        return set()

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        scores = context.passes.score(fed)
        candidates, counted = _repeats(clean)
        labelled = fed.labels != IGNORED
        chances = scores.logits.softmax(dim=-1).gather(1, candidates[labelled])
        # The clamp keeps the logarithm finite where p rounds to 1.
        unlikely = -torch.log1p(-chances.clamp(max=1 - 1e-6)).masked_fill(~counted[labelled], 0.0).sum()
        terms = {"cross_entropy": Term(context.passes.cross_entropy(scores))}
        return LossTerms(terms | {"unlikelihood": Term(self.share(context) * self.alpha * unlikely)}, scores.nll())


def _repeats(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return for each label [B, T] the labels [B, T, T] of its row, and which of them are its candidates.

    A candidate precedes the label, differs from it, and is the first occurrence of its token.
    """
    labels, columns = batch.labels, torch.arange(batch.labels.shape[1], device=batch.labels.device)
    before = columns[:, None] > columns  # [T, T]
    same = labels[:, :, None] == labels[:, None, :]  # [B, T, T]
    first = ~(same & before).any(dim=2)  # [B, T]
    counted = before & first[:, None, :] & ~same & (labels != IGNORED)[:, None, :]
    return labels.clamp(min=0)[:, None, :].expand_as(counted), counted


@dataclass
class MixedCrossEntropy(LossMethod):
    """MixCE: -sum_t [(1 - weight) + weight p_t] log p_t, the p_t in brackets constant; weight is the paper's 1 - eta.

    It mixes the forward cross-entropy with an approximation of the reverse one, in which the model weighs the data's
    tokens by its own probabilities. Source: Zhang et al. 2023, section 3.2. Cost: none. Teacher forcing at weight 0. It
    draws no samples. The weighted part has no label smoothing.
    """

    weight: Share = 0.5

    def teaches(self) -> set[str]:
        return set()

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        scores = context.passes.score(fed)
        log_probs = scores.log_probs()
        reverse = -(log_probs.detach().exp() * log_probs).sum()
        loss = context.passes.cross_entropy(scores)
        return LossTerms(mixed(self.share(context), loss, "reverse", reverse), scores.nll())
