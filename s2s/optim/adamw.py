"""AdamW, torch's fused form (Loshchilov and Hutter 2019)."""

from dataclasses import dataclass

import torch
from torch import nn

from s2s.errors import UserError
from s2s.optim.groups import parameter_groups


@dataclass
class AdamW:
    """A recipe's ``optimizer: {name: adamw}``; ``decay`` is decoupled and spares biases and norms."""

    rate: float = 1e-3  # the schedule's factor multiplies it
    beta1: float = 0.9  # of the mean of gradients
    beta2: float = 0.999  # of the mean of their squares
    epsilon: float = 1e-8  # added to the root of the latter
    decay: float = 0.01  # of matrices, decoupled; biases and norms are spared

    def __post_init__(self) -> None:
        for name in ("rate", "decay", "epsilon"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimizer.{name}: {getattr(self, name)} is not at least 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name}: {getattr(self, name)} is not in [0, 1)")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a module's parameters."""
        groups = parameter_groups(module, self.decay)
        return torch.optim.AdamW(groups, self.rate, (self.beta1, self.beta2), self.epsilon, fused=True)
