"""Dropout whose random bits are cheap on a processor."""

import numpy
import torch
from torch import Tensor, nn

STEPS = 1 << 16
"""How finely a rate is resolved where 16 bits are drawn for an element."""


class Dropout(nn.Dropout):
    """``nn.Dropout``, on a processor with 16 bits an element from one stream (SFC64) seeded by torch's generator.

    torch's own draws cost more there than the arithmetic of a norm. The rate is rounded to 1 / 65536, and what is kept
    is scaled by the rounded rate, so that the mean stays exact. As with torch's, the state of its generator before a
    call fixes what is dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Rows with some elements 0 and the others scaled, while training."""
        dropped = round(self.p * STEPS)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or dropped == STEPS:
            return super().forward(x)
        return x * _noise(x, dropped) if self.training and dropped else x


def _noise(x: Tensor, dropped: int) -> Tensor:
    """0 for as many elements of 65536 as are dropped, otherwise what makes the mean 1."""
    seed, elements = int(torch.randint(2**63 - 1, ())), x.numel()
    bits = numpy.random.SFC64(seed).random_raw(-(-elements // 4)).view(numpy.uint16)[:elements]
    number = numpy.float64 if x.dtype == torch.float64 else numpy.float32
    noise = numpy.multiply(bits >= dropped, number(STEPS / (STEPS - dropped)))
    return torch.from_numpy(noise).view(x.shape).to(x.dtype)
