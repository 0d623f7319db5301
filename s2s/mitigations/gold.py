"""GOLD: off-policy policy gradients on gold targets."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import Number, PathText, Share, Strength
from s2s.errors import UserError, nearest
from s2s.files.foreign import check_inside
from s2s.losses.passes import Passes
from s2s.mitigations.base import LossMethod, LossTerms, StepContext, TrainingContext, mixed
from s2s.model import PrefixTransformer
from s2s.runs import checkpoints
from s2s.runs.metadata import check_weights, read_metadata
from s2s.runs.weight_files import check_tensors


def _one(log_probs: Tensor, baseline: float) -> Tensor:  # noqa: ARG001
    return torch.ones_like(log_probs)


def _probability(log_probs: Tensor, baseline: float) -> Tensor:  # noqa: ARG001
    return log_probs.exp()


def _log_probability(log_probs: Tensor, baseline: float) -> Tensor:
    return (log_probs - baseline).clamp(min=0)


REWARDS = {"constant": _one, "sum": _probability, "product": _log_probability}
"""The reward of each gold token from the reference's log-probability of it."""


@dataclass
class OffPolicy(LossMethod):
    """GOLD: -sum_t max(p_t, floor) Q_t log p_t on gold tokens, p_t the model's own probability, a constant in front.

    Q_t = sum_{u >= t} discount^(u - t) max(r_u, reward_floor) over the rest of the target, with r 1 for reward
    "constant" (and Q_t = 1: GOLD-delta), q_u for "sum" (GOLD-s) and log q_u - baseline, at least 0, for "product"
    (GOLD-p); q is the run in the folder ``reference``, trained by teacher forcing. The official code bounds the rewards
    of GOLD-s from below by 0.1, and looks five tokens ahead where the text, and this, takes all. (1 - weight) CE +
    weight of this, in target tokens. Source: Pang and He 2021, section 3. Cost: none, or a pass of the reference
    without gradients. Teacher forcing at weight 0. The likelihood gets worse: choose by another score. The method's
    part has no label smoothing.
    """

    floor: Share = 0.1  # least weight of a token
    reward: str = "constant"  # a row of REWARDS: constant, sum or product
    # the folder of a run trained by teacher forcing, for sum and product
    reference: PathText | None = field(default=None, metadata=outside("FOLDER"))
    discount: Share = 1.0  # of later rewards
    baseline: Number = -10.0  # for product: taken from log-probabilities
    reward_floor: Strength = 0.0  # least reward of a token, for sum and product; 0.1 in the official code of GOLD-s

    def teaches(self) -> set[str]:
        return set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward not in REWARDS:
            raise UserError(f"reward: no '{self.reward}'{nearest(self.reward, REWARDS)}")
        if self.reward != "constant" and self.reference is None:
            raise UserError(f"reference: reward '{self.reward}' needs the folder of a run trained by teacher forcing")

    def prepare(self, context: TrainingContext) -> None:
        self._reference = None
        if self.reward != "constant" and self.reference is not None:
            self._reference = read_model(self.reference, context.vocabulary.size)

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        scores = context.passes.score(fed)
        log_probs = scores.log_probs()
        importance = log_probs.detach().exp().clamp(min=self.floor)
        method = -(importance * self._returns(clean, fed, log_probs) * log_probs).sum()
        return LossTerms(
            mixed(self.share(context), context.passes.cross_entropy(scores), "off_policy", method), scores.nll()
        )

    @torch.no_grad()
    def _returns(self, clean: Batch, fed: Batch, log_probs: Tensor) -> Tensor:
        """Q [N] at the labels of the batch that is fed."""
        if self._reference is None:
            return torch.ones_like(log_probs)
        self._reference.to(clean.source.device)
        scores = Passes(self._reference, 0.0, self._reference).score(clean)
        real = clean.labels != IGNORED
        rewards = scores.logits.new_zeros(real.shape)
        rewards[real] = REWARDS[self.reward](scores.log_probs(), self.baseline).clamp(min=self.reward_floor)
        for column in reversed(range(rewards.shape[1] - 1)):  # each becomes the return of the rest of the target
            rewards[:, column] += self.discount * rewards[:, column + 1]
        return rewards[fed.labels != IGNORED].to(log_probs.dtype)


def read_model(folder: str, vocabulary: int) -> PrefixTransformer:
    """The best weights of a run, frozen; it has to have the same vocabulary."""
    check_inside(Path(folder))
    try:
        metadata = read_metadata(Path(folder))
    except OSError as error:
        raise UserError(f"reference: '{folder}' is no run ({error.strerror})") from error
    if metadata.architecture.vocabulary != vocabulary:
        raise UserError(f"reference: '{folder}' has {metadata.architecture.vocabulary} pieces, this run {vocabulary}")
    model = PrefixTransformer(metadata.architecture)
    stored = checkpoints.stored(Path(folder))
    check_weights(Path(folder), metadata, stored.file)
    tensors = {name.removeprefix("model."): each for name, each in stored.tensors.items() if name.startswith("model.")}
    check_tensors(model, tensors, stored.file)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)
