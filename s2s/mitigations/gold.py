"""GOLD: off-policy policy gradients on gold targets."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import Number, PathText, Share, Strength
from s2s.errors import UserError, nearest
from s2s.losses.passes import Passes
from s2s.mitigations.base import LossMethod, LossTerms, StepContext, TrainingContext, mixed
from s2s.model.backbone import Backbone

REWARDS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "constant": lambda log_probs, _: torch.ones_like(log_probs),
    "sum": lambda log_probs, _: log_probs.exp(),
    "product": lambda log_probs, baseline: (log_probs - baseline).clamp(min=0),
}
"""The reward of each gold token from the reference's log-probability of it, and the baseline."""


@dataclass
class OffPolicy(LossMethod):
    """GOLD: (1 - weight) CE + weight [-sum_t max(p_t, floor) Q_t log p_t] on gold tokens.

    p_t is the model's own probability of gold token t, and a constant where it is a factor. Q_t = sum_{u >= t}
    discount^(u - t) max(r_u, reward_floor) over the rest of the target, with r = 1 for reward "constant" (and Q_t = 1:
    GOLD-delta), q_u for "sum" (GOLD-s) and log q_u - baseline, at least 0, for "product" (GOLD-p); q is the run in the
    folder ``reference``, trained by teacher forcing. A mean over target tokens. Source: Pang and He 2021, section 3.
    The official code bounds the rewards of GOLD-s from below by 0.1, and looks five tokens ahead where the text, and
    this class, take all. Cost: none, or a pass of the reference without gradients. Teacher forcing at weight 0. The
    likelihood gets worse: select checkpoints by another score. The method's part has no label smoothing.
    """

    floor: Share = 0.1  # least weight of a token
    reward: str = "constant"  # a row of REWARDS: constant, sum or product
    # the folder of a run trained by teacher forcing, for sum and product
    reference: PathText | None = field(default=None, metadata=outside("FOLDER"))
    discount: Share = 1.0  # of later rewards
    baseline: Number = -10.0  # for product: subtracted from log-probabilities
    reward_floor: Strength = 0.0  # least reward of a token, for sum and product; 0.1 in the official code of GOLD-s

    def teaches(self) -> set[str]:
        return set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward not in REWARDS:
            raise UserError(f"reward: no '{self.reward}'{nearest(self.reward, REWARDS)}")
        if self.reward != "constant" and self.reference is None:
            raise UserError(f"reference: reward '{self.reward}' needs the folder of a run trained by teacher forcing")

    def prepare(self, context: TrainingContext) -> Backbone | None:
        """Load the reference, which has to have the same vocabulary."""
        if self.reward == "constant" or self.reference is None:
            return None
        return context.frozen_run("reference", self.reference).model

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        passes, scores = context.passes, context.passes.score(fed)
        log_probs = scores.log_probs()
        # The weight is p_t itself: without a floor, tokens that the model finds unlikely would hardly be learned.
        importance = log_probs.detach().exp().clamp(min=self.floor)
        method = -(importance * self._returns(clean, fed, log_probs, context.prepared) * log_probs).sum()
        return LossTerms(mixed(self.share(context), passes.cross_entropy(scores), "off_policy", method), scores.nll())

    @torch.no_grad()
    def _returns(self, clean: Batch, fed: Batch, log_probs: Tensor, reference: Backbone | None) -> Tensor:
        """Return Q [N] at the labels of the batch that the model was fed."""
        if reference is None:
            return torch.ones_like(log_probs)
        # The reference is no part of the objective, which the run moves to its device after ``prepare``.
        reference.to(clean.source.device)
        # The rewards are those of gold targets: the reference never reads edited prefixes.
        scores = Passes(reference, 0.0, reference).score(clean)
        labelled = clean.labels != IGNORED
        returns = scores.logits.new_zeros(labelled.shape)
        returns[labelled] = REWARDS[self.reward](scores.log_probs(), self.baseline).clamp(min=self.reward_floor)
        for column in reversed(range(returns.shape[1] - 1)):
            returns[:, column] += self.discount * returns[:, column + 1]
        return returns[fed.labels != IGNORED].to(log_probs.dtype)
