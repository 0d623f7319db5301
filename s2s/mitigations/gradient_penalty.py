"""The gradient penalty: flatness of the loss around the token embeddings."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from s2s.batch import Batch
from s2s.config.ranges import Strength
from s2s.errors import UserError
from s2s.losses.terms import Term
from s2s.mitigations.adversarial import Perturbed
from s2s.mitigations.base import Composition, LossMethod, LossTerms, StepContext, mixed


@dataclass
class GradientPenalty(Perturbed):
    """L + weight epsilon / 2 N sum_i |dL/de_i|^2 over embedded positions i, L the mean over the update's N labels.

    Each occurrence of a token has its own gradient. In sums of losses it is epsilon / 2 sum_i |d(N L)/de_i|^2 / N, so
    that its strength does not depend on the size of the update. Source: Su 2020 (7234, 7259); without N it is
    ``gradient_penalty_article``. With ``first_order`` the penalty is replaced by L(e + d), d = epsilon d(N L)/de held
    constant, whose gradient is the penalty's up to O(epsilon^2). Cost: a differentiable backward through the target
    rows and a backward of that, in attention's unfused kernel, and not under sharding; with ``first_order`` the cost
    of FGM, anywhere. Teacher forcing at weight 0 or epsilon 0. It does not penalise the gradient of the output layer,
    which the article's code includes through its tied table.
    """

    epsilon: Strength = 0.003  # 1 / 320: the article's 1 at the 320 labels of its update
    first_order: bool = False  # the loss at a perturbation instead: no double backward

    def divisor(self, context: StepContext) -> Tensor | float:  # noqa: ARG002
        """Return the divisor of a squared gradient."""
        return 1.0  # a divisor and no factor: 1 / an int64 tensor would have the digits of float32 only

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        return self._first_order(fed, context) if self.first_order else self._exact(fed, context)

    def _exact(self, fed: Batch, context: StepContext) -> LossTerms:
        passes = context.passes
        if self.scope == "target":
            passes.memory(fed)  # outside of the unfused kernel, which only twice differentiated passes need
        # Fused attention kernels have no second derivative.
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

    def refuse(self, composition: Composition) -> str | None:
        if composition.compiled and not self.first_order:
            return "compiled blocks cannot be differentiated twice; set first_order=true or run.compile=false"
        if composition.sharded and not self.shardable:
            return "sharded layers cannot be differentiated twice; set first_order=true or run.sharding=none"
        return super().refuse(composition)

    @property
    def shardable(self) -> bool:
        return self.first_order


@dataclass
class ArticlePenalty(GradientPenalty):
    """L + weight epsilon / 2 sum_i |dL/de_i|^2, the form of Su's gradient_penalty.py, which shrinks as updates grow.

    It is ``gradient_penalty`` without N, by default over the whole sequence, as in the script, whose update has about
    320 labels. L is the mean over the labels of the whole update, so micro-batches and processes change nothing. Cost:
    that of ``gradient_penalty``. Teacher forcing at weight 0 or epsilon 0.
    """

    scope: Literal["target", "all"] = "all"
    epsilon: Strength = 1.0  # of updates of about 320 labels

    def divisor(self, context: StepContext) -> Tensor | float:
        return context.counts.target_tokens.clamp(min=1)


@dataclass
class ArticleFastGradient(LossMethod):
    """(1 - weight) L(E) + weight L(E + D), D = epsilon G / (|G| + 1e-8), G = dL/dE, E the table of token embeddings.

    G is the gradient of the update's mean loss, through inputs and tied output layer, and its norm that of the whole
    table: all occurrences of a token have the same perturbation. Source: Su 2020 (7234), whose code has weight 1, the
    adversarial gradient alone. Cost: a whole step more. Teacher forcing at weight 0 or epsilon 0. It is not defined on
    parts of an update, so it is refused with several processes or micro-batches, and under sharding.
    """

    epsilon: Strength = 1.0  # length of the table's perturbation

    def teaches(self) -> set[str]:
        return set()

    def refuse(self, composition: Composition) -> str | None:
        if composition.updates_in_parts:
            return (
                "its gradient is that of a whole update, in one process and one micro-batch: s2s train has these at "
                "run.processes 1 and run.accumulate 1, and fgm needs neither"
            )
        return None

    @property
    def shardable(self) -> bool:
        return False

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, table = context.passes, context.passes.model.token_table
        if not table.requires_grad:
            raise UserError("fgm_article: it moves the table of embeddings, which model.lora freezes; use fgm")
        scores = passes.score(fed)
        loss = passes.cross_entropy(scores)
        (gradient,) = passes.differentiate(loss, [table])
        # The article's loss is a mean, and the gradient here that of a sum.
        gradient = gradient / context.counts.target_tokens.clamp(min=1)
        # A second table: to add the step to the weights and subtract it again, as the article's code does, does not
        # restore them to the bit.
        moved = table + self.epsilon * gradient / (gradient.norm() + 1e-8)
        memory = passes.model.encode(fed.source, fed.source_lengths, passes.model.words(fed.source, moved))
        hidden = passes.model.decode(fed.target, memory, passes.model.words(fed.target, moved))
        adversarial = passes.cross_entropy(passes.scores(hidden, fed.labels, moved))
        return LossTerms(mixed(self.share(context), loss, "adversarial", adversarial), scores.nll())
