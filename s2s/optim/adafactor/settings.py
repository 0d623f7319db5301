"""The recipe's side of AdaFactor."""

from dataclasses import dataclass

import torch
from torch import nn

from s2s.config.ranges import CountOrZero, Limit, Share, ShareBelowOne, Strength, settle
from s2s.optim.adafactor.optimizer import Adafactor
from s2s.optim.groups import parameter_groups


@dataclass
class AdafactorSettings:
    """A recipe's ``optimizer: {name: adafactor}``: steps of the schedule's rate times a parameter's own scale.

    The rate is always the recipe's, so ``schedule`` works as with other optimizers. The paper's relative step,
    min(1e-2, 1 / sqrt(t)), is ``rate: 0.01`` with ``schedule: {name: relative_step}``; its form with a warm-up,
    min(1e-6 t, 1 / sqrt(t)), is ``rate: 0.01`` with ``schedule: {name: inverse_square_root, warmup: 10000}``.
    """

    rate: Strength = 1e-3  # the schedule's factor multiplies it
    scale_parameter: bool = True  # steps are relative to max(1e-3, RMS of the parameter)
    scale_vectors: bool = True  # those of biases and norms too; a bias of 0 then moves by a thousandth of the rate
    clip_threshold: Limit = 1.0  # largest RMS of an update before it is multiplied by the rate
    beta1: ShareBelowOne = 0.0  # of a momentum; 0 keeps none
    beta2_cap: Share = 1.0  # the largest beta2; below 1 the second moments never freeze
    bf16_momentum: bool = False  # halves the momentum's memory
    decay: Strength = 0.0  # of matrices; multiplied by the step's size
    min_dim_size_to_factor: CountOrZero = 0  # second moments of matrices with a shorter axis are kept whole

    def __post_init__(self) -> None:
        settle(self, "optimizer.")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a module's parameters."""
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
