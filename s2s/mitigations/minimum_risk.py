"""Losses over sampled or stored candidates: minimum risk training and self-critical training."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import Few, PathText, Strength
from s2s.metrics.sentence import METRICS, check_metric, sentence_metric
from s2s.mitigations.base import LossTerms, SequenceLossMethod, StepContext, TrainingContext
from s2s.mitigations.candidates import Candidate, Packed, gold, pack, read, rewards, sample


@dataclass
class Sampled(SequenceLossMethod):
    """The keys of methods that compare candidates by a metric."""

    candidates: Few = 8  # of each source
    # a name of s2s.metrics.sentence.METRICS, or module:function of (hypothesis, reference)
    metric: str = field(default="chrf", metadata=outside("module:function", METRICS))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric)

    def prepare(self, context: TrainingContext) -> None:
        self._context, self._metric = context, sentence_metric(self.metric)

    def teaches(self) -> set[str]:
        return {"own_errors"}

    def _rewards(self, candidates: list[list[Candidate]], batch: Batch) -> Tensor:
        vocabulary = self._context.vocabulary
        found = rewards(candidates, gold(batch, vocabulary.end), self._metric, vocabulary)
        return found.to(batch.source.device)

    def _sample(self, batch: Batch, context: StepContext, count: int, greedy: bool = False) -> list[list[Candidate]]:
        return sample(batch, context, count, self._context.max_length, self._context.vocabulary.end, greedy)

    def _pack(self, candidates: list[list[Candidate]], batch: Batch) -> Packed:
        return pack(candidates, self._context.vocabulary.end, batch.source.device)


@dataclass
class MinimumRisk(Sampled):
    """MRT: (1 - weight) CE + weight sum_c Q(c) (1 - metric(c, gold)), Q(c) in proportion to p(c | source)^alpha.

    The sum is over the different ones among ``candidates`` samples of the model, and the gold target ``with_gold``;
    or over the candidates that a file of decoded JSONL holds at ``path``. Their scores are one pass, packed behind one
    encoded source. A mean over examples. Source: Shen et al. 2016; Wang and Sennrich 2020 (alpha 0.005, rate 1e-5, no
    label smoothing, from a trained model). Cost: sampling and (S + K T) / (S + T) of a step. Teacher forcing at weight
    0. What it gains may be peakiness rather than reward (Choshen et al. 2020): ``mrt_shuffled`` is the control.
    """

    alpha: Strength = 0.005  # sharpness of Q
    with_gold: bool = False  # the gold target is a candidate too
    # a file of decoded candidates; null: samples of the model
    path: PathText | None = field(default=None, metadata=outside("FILE"))

    def prepare(self, context: TrainingContext) -> None:
        super().prepare(context)
        self._stored = None if self.path is None else read(self.path, context)

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        found = self._candidates(clean, context)
        packed = self._pack(found, clean)
        cost = 1 - self.order(self._rewards(found, clean), packed.real(), context)
        risk = expected_risk(packed, cost, self.alpha, clean, context)
        return self.mixed(fed, context, "risk", risk)

    def order(self, rewards: Tensor, real: Tensor, context: StepContext) -> Tensor:  # noqa: ARG002
        """The rewards [B, K] that the candidates get, of which those that are ``real`` [B, K] count."""
        return rewards

    def _candidates(self, batch: Batch, context: StepContext) -> list[list[Candidate]]:
        if self._stored is None:
            found = self._sample(batch, context, self.candidates)
        else:
            found = [[one for one, _ in row] for row in self._stored.find(batch, self.candidates)]
        golds = gold(batch, self._context.vocabulary.end)
        return [[*row, target] for row, target in zip(found, golds, strict=True)] if self.with_gold else found


@dataclass
class ShuffledRisk(MinimumRisk):
    """The control of ``mrt``: the candidates of a source get each other's rewards, in an order drawn at random.

    What it reaches is not due to the metric. Keys, cost and zero are those of ``mrt``.
    """

    def order(self, rewards: Tensor, real: Tensor, context: StepContext) -> Tensor:
        # What is not real stands behind in both orders: duplicates and the filling of short rows give no rewards away.
        drawn = context.draws.uniform("shuffle", rewards.shape[1]).masked_fill(~real, 1.0).argsort(dim=1)
        places = (~real).int().argsort(dim=1, stable=True)
        return rewards.scatter(1, places, rewards.gather(1, drawn))


def expected_risk(packed: Packed, cost: Tensor, alpha: float, batch: Batch, context: StepContext) -> Tensor:
    """The sum over rows of sum_c Q(c) cost(c), cost [B, K]; rows without labels add nothing."""
    scores = (alpha * packed.log_probs(context.passes, batch)).masked_fill(~packed.real(), -torch.inf)
    return ((scores.softmax(dim=1) * cost).sum(dim=1) * has_labels(batch)).sum()


def has_labels(batch: Batch) -> Tensor:
    """Which rows [B] count."""
    return (batch.labels != IGNORED).any(dim=1)


@dataclass
class SelfCritical(Sampled):
    """SCST: (1 - weight) CE - weight mean_c (metric(c) - metric(greedy)) log p(c | source) over sampled c.

    The metric of the model's own greedy output is the baseline; metrics are constants. A mean over examples. Source:
    Rennie et al. 2017. Cost: sampling, a greedy search and (S + K T) / (S + T) of a step. Teacher forcing at weight 0.
    Gradients have a high variance: start from a trained model.
    """

    candidates: Few = 1

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        found, greedy = self._sample(clean, context, self.candidates), self._sample(clean, context, 1, greedy=True)
        advantage = self._rewards(found, clean) - self._rewards(greedy, clean)
        log_probs = self._pack(found, clean).log_probs(context.passes, clean)
        critical = -((advantage * log_probs).mean(dim=1) * has_labels(clean)).sum()
        return self.mixed(fed, context, "self_critical", critical)
