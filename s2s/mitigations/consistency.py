"""Consistency of two views of one example: R-Drop (two dropout masks) and noise consistency (clean and corrupted)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.ranges import Share, Strength
from s2s.losses.divergence_loss import Shares
from s2s.losses.terms import Scores, Term, divergence, divergences
from s2s.mitigations.base import Composition, LossMethod, LossTerms, PrefixMethod, StepContext, paired_terms
from s2s.mitigations.prefix_noise import Noise, from_target


@dataclass
class Consistency(LossMethod):
    """The keys of methods that pull the predictions of two views of an example together."""

    alpha: Strength = 1.0  # strength of the divergence

    def scale(self) -> float:
        """Return the factor of the sum of both divergences."""
        return self.alpha / 2

    def combined(self, first: Scores, second: Scores, divergence: Tensor, context: StepContext) -> LossTerms:
        """Return the loss of two views, given the sum of their divergences in both directions."""
        share, passes = self.share(context), context.passes
        # (1 - share) CE_1 + share (CE_1 + CE_2) / 2
        entropy = (1 - share / 2) * passes.cross_entropy(first) + share / 2 * passes.cross_entropy(second)
        terms = {"cross_entropy": Term(entropy), "divergence": Term(share * self.scale() * divergence)}
        return LossTerms(terms, first.nll())


@dataclass
class RDrop(Consistency):
    """(1 - weight) CE_1 + weight [(CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2], two dropout masks.

    A mean over target tokens. Source: Liang et al. 2021, in the form of their README, the *mean* of the two
    cross-entropies. Their equation and their fairseq criterion take the *sum*, CE_1 + CE_2 + alpha (KL + KL) / 2, which
    is twice this form at half of their alpha: their 5 (IWSLT) is 2.5 here. ``r_drop_article`` takes the sum's alpha as
    it was published. ``scope: all`` is the paper's: the whole sequence runs twice; ``scope: target`` packs two targets
    after one encoded source and so shares its dropout. Cost: a whole step more, or a target pass. Teacher forcing at
    weight 0; at alpha 0 the mean of two passes. It does nothing without dropout.
    """

    alpha: Strength = 2.5  # of the mean's form: half of the alpha of the sum's form
    scope: Literal["target", "all"] = "all"  # two targets after one source, or the whole sequence twice

    def teaches(self) -> set[str]:
        return set()

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, mask = context.passes, fed.labels != IGNORED
        if self.scope == "all":
            rows = passes.rows(fed.map(lambda part: torch.cat([part, part])))
        else:
            rows = torch.cat([hidden[mask] for hidden in passes.copies([fed, fed])])
        share = self.share(context)
        # (1 - share) CE_1 + share (CE_1 + CE_2) / 2
        shares = Shares(1 - share / 2, share / 2, share * self.scale())
        return paired_terms(passes, rows, fed.labels[mask], shares, divergences)


@dataclass
class ArticleRDrop(RDrop):
    """R-Drop at the scale of Su's code (8496): (CE_1 + CE_2) / 2 + alpha (KL(p_1 || p_2) + KL(p_2 || p_1)) / 4.

    It is ``r_drop`` at half of its alpha, and half of the sum that Liang et al. write at the same alpha. His article
    has alpha 4 and dropout 0.3. Cost and the weight of teacher forcing are those of ``r_drop``.
    """

    alpha: Strength = 4.0  # as published: of the sum's form

    def scale(self) -> float:
        return self.alpha / 4


@dataclass
class NoiseConsistency(Consistency):
    """R-Drop's formula with the gold prefix as the first view and the corrupted one as the second.

    The second view is the batch as the recipe's prefix methods have edited it, and then random replacement of the
    decoder's input at ``rate`` (pool target, gate 1). Both targets are packed after one encoded source. With
    ``detach_clean`` the divergence is 2 KL(clean || corrupted) with the clean side constant. The nearest published
    relatives are R-Drop and DySI's imitation loss (Lin et al. 2023). Cost: a target pass. Teacher forcing at weight 0.
    It does not compare more than one corruption a step.
    """

    rate: Share = 0.3  # of replaced tokens in the second view
    detach_clean: bool = False  # the clean view is a constant

    def teaches(self) -> set[str]:
        return {"replace_from_target"} if self.rate else set()

    def refuse(self, composition: Composition) -> str | None:
        if self.rate or any(isinstance(method, PrefixMethod) for method in composition.mitigations):
            return None
        return "at rate 0 and without a method that edits prefixes both views are the same"

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        # A ramp scales the weight of a loss method; it should not thin out the noise as well.
        hits = Noise(rate=self.rate).hits(fed, context._replace(strength=1.0))
        target = torch.where(hits, from_target(fed, context), fed.target)
        # A prefix method may have taken back labels: swap noise does where it shows a token early.
        counted = fed.labels != IGNORED
        corrupted = fed._replace(target=target, labels=clean.labels.masked_fill(~counted, IGNORED))
        # Word dropout may have edited the source too; two sources cannot share one encoding.
        if corrupted.source is clean.source:
            first, second = context.passes.score_copies([clean, corrupted])
        else:
            first, second = context.passes.score(clean), context.passes.score(corrupted)
        # Scores exist at labels alone, and the second view may have fewer of them.
        compared = first.logits[counted[clean.labels != IGNORED]]
        if self.detach_clean:
            return self.combined(first, second, 2 * divergence(compared.detach(), second.logits), context)
        return self.combined(first, second, divergences(compared, second.logits), context)
