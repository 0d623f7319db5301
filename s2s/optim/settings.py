"""The optimizers that a recipe's ``optimizer:`` may name; each builds itself for the parameters of a module."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from s2s.config.ranges import CountOrZero, Limit, Share, ShareBelowOne, Strength, settle
from s2s.optim.adafactor.optimizer import Adafactor


@dataclass
class AdamW:
    """A recipe's ``optimizer: {name: adamw}``: torch's fused AdamW (Loshchilov and Hutter 2019)."""

    rate: Strength = 1e-3  # the schedule's factor multiplies it
    beta1: ShareBelowOne = 0.9  # of the mean of gradients
    beta2: ShareBelowOne = 0.999  # of the mean of squared gradients
    epsilon: Strength = 1e-8  # added to the root of the mean of squares
    decay: Strength = 0.01  # of matrices, decoupled; biases and norms do not decay

    def __post_init__(self) -> None:
        settle(self, "optimizer.")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a module's parameters."""
        groups = parameter_groups(module, self.decay)
        return torch.optim.AdamW(groups, self.rate, (self.beta1, self.beta2), self.epsilon, fused=True)


@dataclass
class AdafactorSettings:
    """A recipe's ``optimizer: {name: adafactor}``: steps of the schedule's rate times a parameter's own scale.

    The rate is always the recipe's, so ``schedule`` works as with other optimizers. The paper's relative step,
    min(1e-2, 1 / sqrt(t)), is ``rate: 0.01`` with ``schedule: {name: relative_step}``; its form with a warm-up,
    min(1e-6 t, 1 / sqrt(t)), is ``rate: 0.01`` with ``schedule: {name: inverse_square_root, warmup: 10000}``.
    """

    rate: Strength = 1e-3  # the schedule's factor multiplies it
    scale_parameter: bool = True  # steps are relative to max(1e-3, RMS of the parameter)
    scale_vectors: bool = True  # so are those of biases and norms; a bias of 0 then moves by a thousandth of the rate
    clip_threshold: Limit = 1.0  # largest RMS of an update before it is multiplied by the rate
    beta1: ShareBelowOne = 0.0  # of a momentum; 0 stores none
    beta2_cap: Share = 1.0  # largest beta2; below 1 the second moments keep following the gradients in long runs
    bf16_momentum: bool = False  # halves the momentum's memory
    decay: Strength = 0.0  # of matrices; multiplied by the step's size
    min_dim_size_to_factor: CountOrZero = 0  # matrices with a shorter axis store all second moments

    def __post_init__(self) -> None:
        settle(self, "optimizer.")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of a module's parameters."""
        matrices, vectors = parameter_groups(module, self.decay)
        vectors["scale_parameter"] = self.scale_parameter and self.scale_vectors
        return Adafactor(
            [matrices, vectors],
            self.rate,
            clip_threshold=self.clip_threshold,
            beta1=self.beta1,
            scale_parameter=self.scale_parameter,
            relative_step=False,
            min_dim_size_to_factor=self.min_dim_size_to_factor,
            beta2_cap=self.beta2_cap,
            momentum_dtype=torch.bfloat16 if self.bf16_momentum else None,
        )


def parameter_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices, which decay, and vectors (biases, norms), which do not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # As in BERT's optimizer, which excludes biases and layer norms from the decay.
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


OPTIMIZERS = {"adamw": AdamW, "adafactor": AdafactorSettings}
