"""The gradient penalty: flatness of the loss around the token embeddings."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from s2s.batch import Batch
from s2s.config.ranges import Strength
from s2s.losses.terms import Term
from s2s.mitigations.adversarial import Perturbed
from s2s.mitigations.base import Composition, LossMethod, LossTerms, StepContext, mixed


@dataclass
class GradientPenalty(Perturbed):
    """L + weight epsilon / 2 N sum_i |dL/de_i|^2 over embedded positions i, L the mean over the update's N labels.

    Each occurrence of a token has its own gradient. In sums of losses it is epsilon / 2 sum_i |d(N L)/de_i|^2 / N, so
    that its strength does not depend on the size of the update. Source: Su 2020 (7234, 7259); without N it is
    ``gradient_penalty_article``. Cost: a differentiable way back through the target rows and its own way back, in
    attention's plain kernel; not possible under sharding. With ``first_order`` L(e + d), d = epsilon d(N L)/de held
    constant, takes its place: its gradient is the penalty's up to O(epsilon^2), and it costs what FGM costs, anywhere.
    Teacher forcing at weight 0 or epsilon 0. It does not penalise the gradient of the output layer, which the
    article's code also holds through its tied table.
    """

    epsilon: Strength = 0.003  # 1 / 320: the article's 1 at the 320 labels of its update
    first_order: bool = False  # the loss at a perturbation instead: no double backward

    def divisor(self, context: StepContext) -> Tensor | float:  # noqa: ARG002
        """Return what a squared gradient is divided by: a factor of 1 / int64 would have the digits of float32."""
        return 1.0

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        return self._first_order(fed, context) if self.first_order else self._exact(fed, context)

    def _exact(self, fed: Batch, context: StepContext) -> LossTerms:
        passes = context.passes
        if self.scope == "target":
            passes.memory(fed)  # outside of the plain kernel: only what is differentiated twice needs it
        with sdpa_kernel(SDPBackend.MATH):
            words = passes.words(fed, self.scope)
            scores = passes.score(fed, words)
            loss = passes.cross_entropy(scores)
            gradients = passes.gradients(loss, words, differentiable=True)
        square = torch.stack([part.square().sum() for part in gradients]).sum()
        penalty = self.share(context) * self.epsilon / 2 * square / self.divisor(context)
        return LossTerms({"cross_entropy": Term(loss), "penalty": Term(penalty)}, scores.nll())

    def _first_order(self, fed: Batch, context: StepContext) -> LossTerms:
        divisor = self.divisor(context)
        return self.ascended(fed, context, "penalty", lambda slopes: [self.epsilon * part / divisor for part in slopes])

    def refuse(self, beside: Composition) -> str | None:
        if beside.compiled and not self.first_order:
            return "what is compiled cannot be differentiated twice; set first_order=true or run.compile=false"
        return super().refuse(beside)

    @property
    def shardable(self) -> bool:
        return self.first_order


@dataclass
class ArticlePenalty(GradientPenalty):
    """L + weight epsilon / 2 sum_i |dL/de_i|^2, the script's form, which shrinks as the update grows.

    As ``gradient_penalty``, and with its defaults the whole sequence, as in Su's gradient_penalty.py; the mean is over
    the labels of the whole update, so micro-batches and processes change nothing. The script's update has about 320
    labels. Teacher forcing at weight 0 or epsilon 0.
    """

    scope: Literal["target", "all"] = "all"
    epsilon: Strength = 1.0  # of updates of about 320 labels

    def divisor(self, context: StepContext) -> Tensor | float:
        return context.counts.target_tokens.clamp(min=1)


@dataclass
class ArticleFastGradient(LossMethod):
    """L(E + D), D = epsilon G / (|G| + 1e-8), G = dL/dE over the whole table of token embeddings E; only its gradient.

    G is the gradient of the update's mean loss, through inputs and tied output layer alike, and its norm that of the
    whole table: a token has one perturbation wherever it stands. Source: Su 2020 (7234). Cost: a whole step more.
    Teacher forcing at weight 0 or epsilon 0. It is not defined on parts of an update, so it is refused with several
    processes or micro-batches, and under sharding.
    """

    epsilon: Strength = 1.0  # length of the table's perturbation

    def teaches(self) -> set[str]:
        return set()

    def refuse(self, beside: Composition) -> str | None:
        if beside.updates_in_parts:
            return "its gradient is that of a whole update; it needs run.processes 1 and run.accumulate 1 (or use fgm)"
        return None

    @property
    def shardable(self) -> bool:
        return False

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, table = context.passes, context.passes.model.embedding.tokens.weight
        scores = passes.score(fed)
        loss = passes.cross_entropy(scores)
        (gradient,) = passes.differentiate(loss, [table])
        gradient = gradient / context.counts.target_tokens.clamp(min=1)
        moved = table + self.epsilon * gradient / (gradient.norm() + 1e-8)
        memory = passes.model.encode(fed.source, fed.source_lengths, passes.model.words(fed.source, moved))
        hidden = passes.model.decode(fed.target, memory, passes.model.words(fed.target, moved))
        adversarial = passes.cross_entropy(passes.scores(hidden, fed.labels, moved))
        return LossTerms(mixed(self.share(context), loss, "adversarial", adversarial), scores.nll())
