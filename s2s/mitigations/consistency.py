"""Consistency of two views of one example: R-Drop (two dropout masks) and noise consistency (clean and corrupted)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.ranges import Share, Strength
from s2s.losses.terms import Scores, Term, divergence, divergences
from s2s.mitigations.base import Composition, LossMethod, LossTerms, PrefixMethod, StepContext
from s2s.mitigations.prefix_noise import Noise
from s2s.mitigations.replacement_pools import from_target


@dataclass
class Consistency(LossMethod):
    """The keys of methods that draw two views together."""

    alpha: Strength = 1.0  # strength of the divergence

    def scale(self) -> float:
        """What the sum of both divergences is multiplied by."""
        return self.alpha / 2

    def shaped(self, one: Scores, two: Scores, both: Tensor, context: StepContext) -> LossTerms:
        """The loss of two views and the sum of their divergences both ways."""
        share, passes = self.share(context), context.passes
        entropy = (1 - share / 2) * passes.cross_entropy(one) + share / 2 * passes.cross_entropy(two)
        terms = {"cross_entropy": Term(entropy), "divergence": Term(share * self.scale() * both)}
        return LossTerms(terms, one.nll())


@dataclass
class RDrop(Consistency):
    """(1 - weight) CE_1 + weight [(CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2], two dropout masks.

    A mean over target tokens. Source: Liang et al. 2021, in the form of their README, the *mean* of the two
    cross-entropies. Their equation and their fairseq criterion take the *sum*, CE_1 + CE_2 + alpha (KL + KL) / 2, which
    is twice this form at half of their alpha: their 5 (IWSLT) is 2.5 here. ``r_drop_article`` takes the sum's alpha as
    it was published. ``scope: all`` is the paper's: the whole sequence runs twice, for a whole step more; ``scope:
    target`` packs two targets behind one encoded source and so shares its dropout. Teacher forcing at weight 0; at
    alpha 0 the mean of two passes. It does nothing without dropout.
    """

    alpha: Strength = 2.5  # of the mean's form: half of the alpha of the sum's form
    scope: Literal["target", "all"] = "all"  # two targets behind one source, or the whole sequence twice

    def teaches(self) -> set[str]:
        return set()

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        one, two = _halves(fed, context) if self.scope == "all" else context.passes.score_copies([fed, fed])
        return self.shaped(one, two, divergences(one.logits, two.logits), context)


@dataclass
class ArticleRDrop(RDrop):
    """R-Drop at the scale of Su's code (8496): (CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 4.

    As ``r_drop`` at half of its alpha, and half of the sum that Liang et al. write at the same alpha; alpha 4 and
    dropout 0.3 in his article.
    """

    alpha: Strength = 4.0

    def scale(self) -> float:
        return self.alpha / 4


def _halves(fed: Batch, context: StepContext) -> list[Scores]:
    """The scores of two whole passes, which differ in their dropout."""
    twice = fed.map(lambda part: torch.cat([part, part]))
    scores = context.passes.score(twice)
    return [Scores(*rows) for rows in zip(scores.logits.chunk(2), scores.labels.chunk(2), strict=True)]


@dataclass
class NoiseConsistency(Consistency):
    """R-Drop's formula with the gold prefix as the first view and the corrupted one as the second.

    The second view is what the recipe's feeds have made of the batch, and then random replacement of the decoder's
    input at ``rate`` (pool target, gate 1). Both targets are packed behind one encoded source. With ``detach_clean``
    the divergence is 2 KL(clean || corrupted) with the clean side constant. The nearest published relatives are
    R-Drop and DySI's imitation loss (Lin et al. 2023). Cost: a target pass. Teacher forcing at weight 0. It does not
    compare more than one corruption a step.
    """

    rate: Share = 0.3  # of replaced tokens in the second view
    detach_clean: bool = False  # the clean view is a constant

    def teaches(self) -> set[str]:
        return {"replace_from_target"} if self.rate else set()

    def refuse(self, beside: Composition) -> str | None:
        if self.rate or any(isinstance(method, PrefixMethod) for method in beside.mitigations):
            return None
        return "at rate 0 and without a feed both views are the same"

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        hits = Noise(rate=self.rate).hits(fed, context._replace(strength=1.0))
        target = torch.where(hits, from_target(fed, context), fed.target)
        counted = fed.labels != IGNORED  # a feed may have taken back labels that its noise would show
        corrupted = fed._replace(target=target, labels=clean.labels.masked_fill(~counted, IGNORED))
        if corrupted.source is clean.source:
            one, two = context.passes.score_copies([clean, corrupted])
        else:
            one, two = context.passes.score(clean), context.passes.score(corrupted)
        there = one.logits[counted[clean.labels != IGNORED]]
        if self.detach_clean:
            return self.shaped(one, two, 2 * divergence(there.detach(), two.logits), context)
        return self.shaped(one, two, divergences(there, two.logits), context)
