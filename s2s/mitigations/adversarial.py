"""Adversarial perturbation of token embeddings: fast gradient, projected gradient, FreeLB and virtual adversarial.

In all of them ``scope: target`` perturbs the decoder's inputs only, so that all passes share the encoded source, and
``scope: all`` perturbs the source as well. Norms are those of one sequence, over all its perturbed embeddings, so that
a row's perturbation does not depend on the other rows. Padding has no gradient and is not perturbed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch, real_inputs
from s2s.config.ranges import Few, Share, Strength, at_least
from s2s.losses.divergence_loss import Shares, divergence_at, from_constant
from s2s.losses.passes import InputEmbeddings
from s2s.losses.terms import Term
from s2s.mitigations.base import LossMethod, LossTerms, StepContext, mixed, paired_terms

Perturbation = Sequence[Tensor]
"""A step for each tensor of ``InputEmbeddings``."""


@dataclass
class Perturbed(LossMethod):
    """The keys of methods that perturb embeddings."""

    scope: Literal["target", "all"] = "target"  # embeddings of the decoder's input, or of the source as well
    epsilon: Strength = 1.0  # length of a sequence's perturbation

    def teaches(self) -> set[str]:
        return set()  # it moves embeddings, and every token stays gold

    def ascended(
        self, fed: Batch, context: StepContext, name: str, step_of: Callable[[Sequence[Tensor]], Perturbation]
    ) -> LossTerms:
        """Return (1 - share) L(e) + share L(e + d); ``step_of`` makes the constant d of the gradients of L(e)."""
        passes, words = context.passes, context.passes.words(fed, self.scope)
        scores = passes.score(fed, words)
        loss = passes.cross_entropy(scores)
        # No sequence's loss depends on another's embeddings: the rows of the sum's gradient are each sequence's own.
        step = step_of(passes.gradients(loss, words))
        moved = passes.cross_entropy(passes.score(fed, words.moved(step)))
        return LossTerms(mixed(self.share(context), loss, name, moved), scores.nll())


@dataclass
class FastGradient(Perturbed):
    """FGM: (1 - weight) L(e) + weight L(e + d), d = epsilon g / (|g| + 1e-8), g = dL/de of each sequence's own loss.

    Source: Miyato et al. 2017, section 3, and Su 2020 (7234), where d is constant in the second pass. Cost: a target
    pass and a backward through one (with ``scope: target`` g needs the target's columns only); with ``scope: all`` a
    whole step more. Teacher forcing at weight 0 or epsilon 0. It does not normalise over the batch or over the table,
    as ``fgm_article`` does.
    """

    weight: Share = 0.5

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        return self.ascended(fed, context, "adversarial", lambda gradients: scaled(gradients, self.epsilon))


@dataclass
class ProjectedGradient(Perturbed):
    """PGD: (1 - weight) L(e) + weight L(e + d), d after ``steps`` of d <- project(d + stride g / |g|) from d = 0.

    ``project`` shortens a sequence's d to length epsilon. Source: Madry et al. 2018, section 2.1, in the l2 norm. Cost:
    ``steps`` target passes and backwards. Teacher forcing at weight 0 or epsilon 0; one step with a stride of epsilon
    or more is FGM. It does not use the gradients of the inner steps (see ``free_lb``).
    """

    weight: Share = 0.5
    steps: Few = 3  # of the ascent
    stride: Strength = 0.3  # length of each

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, words = context.passes, context.passes.words(fed, self.scope)
        scores = passes.score(fed, words)
        loss = moved = passes.cross_entropy(scores)
        step: Perturbation = [torch.zeros_like(part) for part in words.tensors()]
        at = words
        for _ in range(self.steps):
            step = self.next(step, passes.gradients(moved, at))
            at = words.moved(step)
            moved = passes.cross_entropy(passes.score(fed, at))
        return LossTerms(mixed(self.share(context), loss, "adversarial", moved), scores.nll())

    def next(self, step: Perturbation, gradients: Sequence[Tensor]) -> Perturbation:
        """Return the perturbation after one ascent."""
        ascent = scaled(gradients, self.stride)
        return projected([part + more for part, more in zip(step, ascent, strict=True)], self.epsilon)


@dataclass
class FreeLargeBatch(ProjectedGradient):
    """FreeLB: (1 - weight) L(e) + weight mean_k L(e + d_k) over the ``steps`` perturbations of an ascent.

    d_0 is uniform in [-epsilon, epsilon] / sqrt(numbers of the sequence); d_k+1 as in PGD. Source: Zhu et al. 2020,
    algorithm 1. Cost: ``steps`` target passes with their backwards, and a clean one where the weight is below 1.
    Teacher forcing at weight 0 or epsilon 0. It does not repeat one dropout mask in all passes.
    """

    weight: Share = 1.0

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, words, losses = context.passes, context.passes.words(fed, self.scope), []
        step = self._start(words, fed, context)
        for number in range(self.steps):
            at = words.moved(step)
            scores = passes.score(fed, at)
            losses.append(passes.cross_entropy(scores))
            if number < self.steps - 1:
                step = self.next(step, passes.gradients(losses[-1], at))
        method = torch.stack(losses).mean()
        if self.share(context) == 1:
            return LossTerms({"adversarial": Term(method)}, scores.nll())
        loss, nll = passes.losses(fed)
        return LossTerms(mixed(self.share(context), loss, "adversarial", method), nll)

    def _start(self, words: InputEmbeddings, fed: Batch, context: StepContext) -> Perturbation:
        """Draw uniform numbers at the positions that are no padding, no longer than epsilon."""
        # sqrt of the count, as a vector of n numbers of size epsilon has length epsilon sqrt(n).
        steps = noise(words, fed, context, gaussian=False)
        # Zeros are padding: the uniform numbers, each in the middle of its interval, are never exactly 0.
        numbers = torch.stack([part.ne(0).flatten(1).sum(1) for part in steps]).sum(0).clamp(min=1)
        return [part * self.epsilon / numbers.to(part.dtype).sqrt()[:, None, None] for part in steps]


@dataclass
class VirtualAdversarial(Perturbed):
    """VAT: L(e) + weight KL(p(e) || p(e + r)), r = epsilon g / |g|, g = d/dr KL(p(e) || p(e + r)) at r = xi d.

    d is a random direction of length 1, replaced by g / |g| in each of ``iterations``; p(e) is a constant. Source:
    Miyato et al. 2018, section 3.3; epsilon, xi and one iteration as in Su's code (7466). The KL is summed over a
    sequence's positions. Cost: two target passes and two backwards. Teacher forcing at weight 0 or epsilon 0. It does
    not use labels, so it does not follow the loss where model and label differ.
    """

    xi: Strength = 10.0  # length at which the divergence is differentiated
    iterations: Annotated[int, at_least(0, 10_000)] = 1  # of the search for the direction

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, words = context.passes, context.passes.words(fed, self.scope)
        rows = passes.rows(fed, words)
        # Normal numbers have no preferred direction; uniform ones would favour the corners of their cube.
        direction: Perturbation = noise(words, fed, context, gaussian=True)
        for _ in range(self.iterations):
            at = words.moved(scaled(direction, self.xi))
            direction = passes.gradients(divergence_at(passes.model, rows, passes.rows(fed, at)), at)
        moved = passes.rows(fed, words.moved(scaled(direction, self.epsilon)))
        shares = Shares(1.0, 0.0, self.share(context))
        return paired_terms(passes, torch.cat([rows, moved]), fed.labels[fed.labels != IGNORED], shares, from_constant)


def scaled(step: Perturbation, length: float) -> Perturbation:
    """Return the perturbation with each sequence's norm scaled to a length; a zero stays a zero."""
    # The addend of the article's code; without it the zero gradient of a row without labels would become nan.
    factor = (length / (_norm(step) + 1e-8))[:, None, None]
    return [part * factor for part in step]


def projected(step: Perturbation, length: float) -> Perturbation:
    """Return the perturbation with each sequence's norm reduced to at most a length."""
    factor = (length / (_norm(step) + 1e-8)).clamp(max=1)[:, None, None]
    return [part * factor for part in step]


def noise(words: InputEmbeddings, batch: Batch, context: StepContext, gaussian: bool) -> Perturbation:
    """Draw random numbers at the positions that are no padding: normal, or uniform in [-1, 1]."""
    columns = torch.arange(batch.source.shape[1], device=batch.source.device)
    masks = [real_inputs(batch), columns < batch.source_lengths[:, None]]
    steps = []
    for name, part, mask in zip(("target", "source"), words.tensors(), masks, strict=False):
        shape = part.shape[1:]
        drawn = context.draws.normal(name, *shape) if gaussian else 2 * context.draws.uniform(name, *shape) - 1
        steps.append((drawn * mask[..., None]).to(part.dtype))
    return steps


def _norm(step: Perturbation) -> Tensor:
    """Return the norm [B] of each sequence's perturbation over all its parts."""
    return torch.stack([part.flatten(1).square().sum(1) for part in step]).sum(0).sqrt()
