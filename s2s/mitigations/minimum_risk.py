"""Losses over sampled or stored candidates: minimum risk training and self-critical training."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2s.batch import Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import Few, PathText, Strength
from s2s.mitigations.base import LossTerms, StepContext, TrainingContext
from s2s.mitigations.candidates import Candidate, CandidateTools, Packed, Sampled, gold, has_labels, read


@dataclass
class MinimumRisk(Sampled):
    """MRT: (1 - weight) CE + weight sum_c Q(c) (1 - metric(c, gold)), Q(c) in proportion to p(c | source)^alpha.

    The sum is over the distinct ones among ``candidates`` samples of the model, plus the gold target ``with_gold``; or
    over the candidates that a file of decoded JSONL holds at ``path``. All are scored in one pass, packed after one
    encoded source. A mean over examples. Source: Shen et al. 2016; Wang and Sennrich 2020 (alpha 0.005, rate 1e-5, no
    label smoothing, from a trained model). Cost: sampling and (S + K T) / (S + T) of a step. Teacher forcing at weight
    0. The gain may come from a more peaked distribution and not from the reward (Choshen et al. 2020): ``mrt_shuffled``
    is the control.
    """

    alpha: Strength = 0.005  # sharpness of Q
    with_gold: bool = False  # the gold target is a candidate too
    # a file of decoded candidates; null: samples of the model
    path: PathText | None = field(default=None, metadata=outside("FILE"))

    def prepare(self, context: TrainingContext) -> CandidateTools:
        tools = super().prepare(context)
        return tools if self.path is None else tools._replace(stored=read(self.path, context))

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        tools: CandidateTools = context.prepared
        candidates = self._candidates(clean, context, tools)
        packed = tools.pack(candidates, clean)
        cost = 1 - self.order(tools.rewards(candidates, clean), packed.distinct(), context)
        risk = expected_risk(packed, cost, self.alpha, clean, context)
        return self.mixed(fed, context, "risk", risk)

    def order(self, rewards: Tensor, distinct: Tensor, context: StepContext) -> Tensor:  # noqa: ARG002
        """Return the rewards [B, K] that the candidates get; those that are not ``distinct`` [B, K] do not count."""
        return rewards

    def _candidates(self, batch: Batch, context: StepContext, tools: CandidateTools) -> list[list[Candidate]]:
        if tools.stored is None:
            rows = tools.sample(batch, context, self.candidates)
        else:
            rows = [[candidate for candidate, _ in row] for row in tools.stored.find(batch, self.candidates)]
        golds = gold(batch, tools.vocabulary.end)
        return [[*row, target] for row, target in zip(rows, golds, strict=True)] if self.with_gold else rows


@dataclass
class ShuffledRisk(MinimumRisk):
    """The control of ``mrt``: the candidates of a source get each other's rewards, in an order drawn at random.

    Whatever it reaches is not due to the metric. Keys, cost and the weight of teacher forcing are those of ``mrt``.
    """

    def order(self, rewards: Tensor, distinct: Tensor, context: StepContext) -> Tensor:
        # Both orders put duplicates and the filling of short rows last, so that distinct candidates swap rewards only
        # among themselves.
        drawn = context.draws.uniform("shuffle", rewards.shape[1]).masked_fill(~distinct, 1.0).argsort(dim=1)
        receivers = (~distinct).int().argsort(dim=1, stable=True)
        return rewards.scatter(1, receivers, rewards.gather(1, drawn))


def expected_risk(packed: Packed, cost: Tensor, alpha: float, batch: Batch, context: StepContext) -> Tensor:
    """Return the sum over rows of sum_c Q(c) cost(c), cost [B, K]; rows without labels add nothing."""
    scores = (alpha * packed.log_probs(context.passes, batch)).masked_fill(~packed.distinct(), -torch.inf)
    return ((scores.softmax(dim=1) * cost).sum(dim=1) * has_labels(batch)).sum()


@dataclass
class SelfCritical(Sampled):
    """SCST: (1 - weight) CE - weight mean_c (metric(c) - metric(greedy)) log p(c | source) over sampled c.

    The metric of the model's greedy output is the baseline; metrics are constants. A mean over examples. Source:
    Rennie et al. 2017. Cost: sampling, a greedy search and (S + K T) / (S + T) of a step. Teacher forcing at weight 0.
    Gradients have a high variance: start from a trained model.
    """

    candidates: Few = 1

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        tools: CandidateTools = context.prepared
        sampled = tools.sample(clean, context, self.candidates)
        greedy = tools.sample(clean, context, 1, greedy=True)
        advantage = tools.rewards(sampled, clean) - tools.rewards(greedy, clean)
        log_probs = tools.pack(sampled, clean).log_probs(context.passes, clean)
        critical = -((advantage * log_probs).mean(dim=1) * has_labels(clean)).sum()
        return self.mixed(fed, context, "self_critical", critical)
