"""AdamW, torch's fused form (Loshchilov and Hutter 2019)."""

from dataclasses import dataclass

import torch
from torch import nn

from s2s.config.ranges import ShareBelowOne, Strength, settle
from s2s.optim.groups import parameter_groups


@dataclass
class AdamW:
    """A recipe's ``optimizer: {name: adamw}``; ``decay`` is decoupled and spares biases and norms."""

    rate: Strength = 1e-3  # the schedule's factor multiplies it
    beta1: ShareBelowOne = 0.9  # of the mean of gradients
    beta2: ShareBelowOne = 0.999  # of the mean of their squares
    epsilon: Strength = 1e-8  # added to the root of the latter
    decay: Strength = 0.01  # of matrices, decoupled; biases and norms are spared

    def __post_init__(self) -> None:
        settle(self, "optimizer.")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a module's parameters."""
        groups = parameter_groups(module, self.decay)
        return torch.optim.AdamW(groups, self.rate, (self.beta1, self.beta2), self.epsilon, fused=True)
