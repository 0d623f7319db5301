"""Methods that exist for the benchmark alone: four by whole passes, and risk over given candidates.

By whole passes means as it is done where a source is not computed apart from its targets. Loss and gradient are those
of the package's methods with scope target; only the way there is longer.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from s2s.batch import IGNORED, Batch, real_inputs
from s2s.losses.passes import Passes
from s2s.losses.terms import Scores, Term
from s2s.mitigations.adversarial import FastGradient, scaled
from s2s.mitigations.base import LossTerms, SequenceLossMethod, StepContext
from s2s.mitigations.candidates import Packed
from s2s.mitigations.consistency import NoiseConsistency
from s2s.mitigations.gradient_penalty import GradientPenalty
from s2s.mitigations.minimum_risk import expected_risk
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.model import PrefixTransformer


@dataclass
class WholeFastGradient(FastGradient):
    """``FastGradient`` by two whole steps: the source is encoded in each, and each goes back to all parameters.

    The first leaves its share of the gradient in the parameters, so its term is a constant. Not for weight 1.
    """

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, share = context.passes, self.share(context)
        loss, nll, gradient = self._first(fed, context)
        (step,) = scaled([gradient], self.epsilon)
        moved = passes.cross_entropy(_scores(fed, passes.model.words(fed.target) + step, context))
        return LossTerms({"clean": Term((1 - share) * loss), "adversarial": Term(share * moved)}, nll)

    def _first(self, fed: Batch, context: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clean step's loss, the labels' negative log-likelihood, the embeddings' gradient, as constants."""
        words = context.passes.model.words(fed.target)
        words.retain_grad()
        scores = _scores(fed, words, context)
        loss = context.passes.cross_entropy(scores)
        factor = (1 - self.share(context)) / context.counts.target_tokens.clamp(min=1)
        (factor * loss).backward()
        assert words.grad is not None
        return loss.detach(), scores.nll().detach(), words.grad / factor


def _scores(batch: Batch, words: Tensor, context: StepContext) -> Scores:
    """Return the scores of a pass that shares nothing."""
    memory = context.passes.model.encode(batch.source, batch.source_lengths)
    return context.passes.scores(context.passes.model.decode(batch.target, memory, words), batch.labels)


@dataclass
class WholeNoiseConsistency(NoiseConsistency):
    """``NoiseConsistency`` whose second view encodes the source again, with a dropout mask of its own."""

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        # Passes know a source by its tensor.
        return super().loss(clean, fed._replace(source=fed.source.clone()), context)


@dataclass
class WholeScheduledSampling(ScheduledSampling):
    """``ScheduledSampling`` whose predictions come from a pass of its own over the source, without gradients."""

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        with torch.no_grad():
            passes = Passes(context.passes.model, 0.0, context.passes.root)
            return super().feed(batch, context._replace(passes=passes))


@dataclass
class WholePenalty(GradientPenalty):
    """``GradientPenalty`` on one masked sequence: everything, source rows too, is differentiated twice."""

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, words = context.passes, context.passes.words(fed, "target")
        with sdpa_kernel(SDPBackend.MATH):
            scores = passes.scores(one_sequence(cast(PrefixTransformer, passes.model), fed, words.target), fed.labels)
            loss = passes.cross_entropy(scores)
            (gradient,) = passes.gradients(loss, words, differentiable=True)
        penalty = self.share(context) * self.epsilon / 2 * gradient.square().sum()
        return LossTerms({"cross_entropy": Term(loss), "penalty": Term(penalty)}, scores.nll())


def one_sequence(model: PrefixTransformer, batch: Batch, words: Tensor) -> Tensor:
    """Return the last layer's target rows [B, T, D] of source and target as one masked sequence of S + T columns."""
    width, columns = batch.source.shape[1], torch.arange(batch.source.shape[1] + words.shape[1], device=words.device)
    after = batch.source_lengths[:, None] + columns[: words.shape[1]]
    source = model.embedding(model.words(batch.source), columns[None, :width], segment=0)
    x = torch.cat([source, model.embedding(words, after, segment=1)], dim=1)
    from_source = (columns < batch.source_lengths[:, None])[:, None]
    from_target = (columns >= width) & (columns <= columns[:, None])
    mask = torch.zeros_like(x[:, :, :1]).masked_fill(~(from_source | from_target), -torch.inf)
    for block in model.blocks:
        x, _ = block(x, mask[:, None])
    return model.final_norm(x[:, width:])


@dataclass
class GivenRisk(SequenceLossMethod):
    """Minimum risk training where candidates and their costs are there already: here they are random."""

    candidates: int = 8
    alpha: float = 0.005

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        packed, cost = self._packed(clean, context), context.draws.uniform("cost", self.candidates)
        return self.mixed(fed, context, "risk", expected_risk(packed, cost, self.alpha, clean, context))

    def _packed(self, batch: Batch, context: StepContext) -> Packed:
        """Candidates up to two tokens shorter or longer than the target, and never empty."""
        added = (5 * context.draws.uniform("length", self.candidates)).long() - 2
        ends = (real_inputs(batch).sum(dim=1, keepdim=True) - 1 + added).clamp(min=1)[..., None]
        columns, end = torch.arange(int(ends.max()) + 1, device=ends.device), batch.target[:, :1, None]
        uniform = context.draws.uniform("token", self.candidates, len(columns))
        ids = (uniform * context.passes.model.shape.vocabulary).long()
        target = torch.cat([end.expand_as(ids[..., :1]), ids[..., :-1]], dim=-1)
        return Packed(target, torch.where(columns == ends, end, ids).masked_fill(columns > ends, IGNORED))
