"""In which numbers a model is multiplied while it decodes: the rows of ``search.precision``."""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.inference.packed_model import Map, PreparedModel
from s2s.machine.matmul import bfloat16_warning
from s2s.model.transformer import PrefixTransformer

logger = logging.getLogger("s2s")

WEIGHT, ROW = 127, 63
"""Greatest whole numbers of weights and of rows. With 8 bits in both, sums of two products are cut off on processors
that have no instructions for them (VNNI), and results would differ between machines."""
MIDDLE = 64
"""What stands for 0 in a row of unsigned numbers, which end at 127."""


@dataclass(frozen=True)
class Quantised:
    """x W + b, with W in int8 with a scale for each output, and x in 7 bits with a scale for each row.

    No row's result depends on other rows, and sums are whole numbers: batches change nothing.
    """

    weight: Tensor  # packed
    scales: Tensor  # [outputs]
    zeros: Tensor  # [outputs]
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        scale = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny * ROW) / ROW
        rows = (x / scale).round().add_(MIDDLE).to(torch.uint8)
        weight = (self.weight, self.scales, self.zeros)
        product = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, MIDDLE, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(self.bias, product, scale)


def quantised(weight: Tensor, bias: Tensor) -> Map:
    """The map of a matrix [outputs, inputs] and a bias."""
    scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(weight.dtype).tiny * WEIGHT) / WEIGHT
    whole = (weight / scales[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    return Quantised(packed, scales, torch.zeros(len(scales), dtype=torch.int32), bias.clone())


def in_bfloat16(model: PrefixTransformer) -> PreparedModel:
    """Prepare all of the model in bfloat16, the encoder too; sums of log-probabilities stay in float32.

    A processor that computes bfloat16 in software is named in a warning of the logger ``s2s``.
    """
    if model.output_bias.device.type == "cpu":
        for line in bfloat16_warning("search.precision"):
            logger.warning(line)
    return PreparedModel(deepcopy(model).bfloat16())


def in_float16(model: PrefixTransformer) -> PreparedModel:
    """Return the same in float16, which GPUs without bfloat16 are fast with; a UserError on a processor."""
    if model.output_bias.device.type == "cpu":
        raise UserError("search.precision: fp16 is for GPUs; a processor has fp32, bf16 and int8")
    return PreparedModel(deepcopy(model).half())


def in_int8(model: PrefixTransformer) -> PreparedModel:
    """Products with the weights in int8 at each step; the source, where it would cost much more, stays in float32.

    A UserError where torch has no such product. Attention other than the dot product stays as it is.
    """
    weight = model.output_bias
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        raise UserError("search.precision: int8 is for float32 models on CPU, with a torch that has oneDNN")
    return PreparedModel(model, quantised)


PRECISIONS: dict[str, Callable[[PrefixTransformer], PreparedModel]] = {
    "auto": PreparedModel,
    "fp32": PreparedModel,
    "bf16": in_bfloat16,
    "fp16": in_float16,
    "int8": in_int8,
}
"""``fp32`` is the model as it is, and so is ``auto`` where no run says what it was trained in."""
