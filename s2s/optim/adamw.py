"""AdamW, torch's fused form (Loshchilov and Hutter 2019)."""

from dataclasses import dataclass

import torch
from torch import nn

from s2s.errors import UserError
from s2s.optim.groups import parameter_groups


@dataclass
class AdamW:
    """A recipe's ``optimizer: {name: adamw}``; ``decay`` is decoupled and spares biases and norms."""

    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.01

    def __post_init__(self) -> None:
        if self.rate < 0 or self.decay < 0:
            raise UserError(f"optimizer: rate {self.rate} and decay {self.decay} must not be negative")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UserError(f"optimizer: beta1 {self.beta1} and beta2 {self.beta2} must lie in [0, 1)")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a module's parameters."""
        groups = parameter_groups(module, self.decay)
        return torch.optim.AdamW(groups, self.rate, (self.beta1, self.beta2), self.epsilon, fused=True)
