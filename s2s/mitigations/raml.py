"""Reward augmented maximum likelihood: targets sampled around gold."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import IGNORED, Batch, real_inputs
from s2s.config.ranges import Strength
from s2s.mitigations.base import Composition, PrefixMethod, StepContext, TrainingContext
from s2s.mitigations.prefix_noise import plain_ids


@dataclass
class RewardAugmented(PrefixMethod):
    """RAML: teacher forcing on targets y' drawn in proportion to exp(-d(y', y) / temperature), d the Hamming distance.

    Over all targets of gold's length the distance splits by token: each token becomes another one, each of the V' - 1
    other plain tokens equally likely, with probability (V' - 1) / (V' - 1 + exp(1 / temperature)), in the input and as
    a label. The end symbol stays. Source: Norouzi et al. 2016, section 3. Cost: none. Teacher forcing at temperature 0
    or weight 0. Labels are noised too, unlike in random replacement, and lengths never change. A ramp scales the
    probability.
    """

    temperature: Strength = 0.1  # 0 draws gold itself

    def refuse(self, composition: Composition) -> str | None:
        if composition.mitigations[0] is self:
            return None
        return "it draws another target, so it has to come before the methods that edit prefixes"

    def teaches(self) -> set[str]:
        return {"replace_from_vocabulary"} if self.temperature else set()

    def prepare(self, context: TrainingContext) -> Tensor:
        """Return the ids that texts are made of."""
        return plain_ids(context.vocabulary)

    def rate(self, plain: int) -> float:
        """Return the probability that a token becomes another one of that many plain tokens."""
        if not self.temperature:
            return 0.0
        return (plain - 1) / (plain - 1 + math.exp(min(1 / self.temperature, 700.0)))  # e^710 is beyond a float

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        plain, columns = context.prepared.to(batch.target.device), batch.target.shape[1]
        tokens = real_inputs(batch)
        tokens[:, 0] = False
        hit = (context.draws.uniform("hit", columns) < context.strength * self.rate(len(plain))) & tokens
        index = torch.searchsorted(plain, batch.target.clamp(min=0))
        # From 1 to V' - 1 steps onwards in the ring of plain ids: every other token, and never the token itself.
        steps = 1 + (context.draws.uniform("token", columns) * (len(plain) - 1)).long()
        target = torch.where(hit, plain[(index + steps) % len(plain)], batch.target)
        # Each label but the end is the next column's input.
        follows = functional.pad(tokens[:, 1:], (0, 1)) & (batch.labels != IGNORED)
        labels = torch.where(follows, target.roll(-1, dims=1), batch.labels)
        return batch._replace(target=target, labels=labels)
