"""The number formats in which a model is multiplied while it decodes: the rows of ``search.precision``."""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.inference import c_code
from s2s.inference.c_products import DEPTH, MIDDLE, CQuantisedLinear
from s2s.inference.packed_model import DecodingModel, Map, PackedModel, laid_out
from s2s.machine.matmul import bfloat16_warning
from s2s.machine.paths import way
from s2s.model.backbone import Backbone
from s2s.model.transformer import PrefixTransformer

logger = logging.getLogger("s2s")

WEIGHT, ROW = 127, 63  # as in products.c
"""The greatest integers of weights and of rows.

Rows have 7 bits because processors without VNNI instructions clip sums of two products of 8-bit numbers: the same model
would give other results there.
"""


@dataclass(frozen=True)
class QuantisedLinear:
    """x W + b, with W in int8 and a scale for each output, and x in 7 bits with a scale for each row.

    A row's result does not depend on other rows, and sums of integers are exact: batches change nothing.
    """

    weight: Tensor  # packed
    scales: Tensor  # [outputs]
    zeros: Tensor  # [outputs]
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        # The least positive number keeps a row of zeros from being divided by 0.
        most = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny * ROW)
        rows = (x * (torch.full_like(most, ROW) / most)).round().add_(MIDDLE).to(torch.uint8)
        weight = (self.weight, self.scales, self.zeros)
        # The operation takes one scale for all rows, so it gets 1, and each row's own scale follows in ``addcmul``.
        product = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, MIDDLE, *weight, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(self.bias, product, most / ROW)


def quantised(weight: Tensor, bias: Tensor) -> Map:
    """Return the int8 map of a weight [outputs, inputs] and a bias."""
    scales = weight.abs().amax(dim=1).clamp(min=torch.finfo(weight.dtype).tiny * WEIGHT) / WEIGHT
    integers = (weight / scales[:, None]).round().to(torch.int8)
    in_c = way("int8") == "c" and weight.shape[1] % DEPTH == 0 and c_code.build().functions is not None
    if in_c:
        return CQuantisedLinear(integers, scales, bias, torch.finfo(weight.dtype).tiny * ROW)
    packed = torch.ops.onednn.qlinear_prepack(integers, None)
    return QuantisedLinear(packed, scales, torch.zeros(len(scales), dtype=torch.int32), bias.clone())


def in_bfloat16(model: Backbone) -> DecodingModel:
    """Pack the whole model in bfloat16, the encoder too; sums of log-probabilities stay in float32.

    A processor that computes bfloat16 in software is named in a warning of the logger ``s2s``.
    """
    if model.device.type == "cpu":
        for line in bfloat16_warning("search.precision"):
            logger.warning(line)
    return laid_out(_converted(model, torch.bfloat16))


def in_float16(model: Backbone) -> DecodingModel:
    """Pack the whole model in float16, for GPUs without fast bfloat16; raises a UserError on a processor."""
    if model.device.type == "cpu":
        raise UserError("search.precision: fp16 is for GPUs; a processor has fp32, bf16 and int8")
    return laid_out(_converted(model, torch.float16))


def in_int8(model: Backbone) -> DecodingModel:
    """Pack the maps in int8, and keep keys and values in bfloat16.

    Attention other than the dot product stays in float32 too. Raises a UserError where torch has no int8 product.
    """
    refuse_int8(type(model))
    assert isinstance(model, PrefixTransformer)
    weight = model.output_bias
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        raise UserError("search.precision: int8 is for float32 models on CPU, with a torch that has oneDNN")
    # A step reads all keys and values for a few rows, and next to int8's rounding bfloat16's is little.
    return PackedModel(model, quantised, rounds_cache=True)


def refuse_int8(kind: type[Backbone]) -> None:
    """Raise a UserError for a kind of model whose steps have no int8."""
    if not issubclass(kind, PrefixTransformer):
        raise UserError("search.precision: int8 is for the prefix LM; this model decodes in fp32 and bf16")


def _converted(model: Backbone, dtype: torch.dtype) -> Backbone:
    """Return a copy of the model with parameters of another type: the caller's may be trained further."""
    converted = deepcopy(model)
    # Buffers stay as they are: families compute positions from them, to more digits than these types have.
    for parameter in converted.parameters():
        parameter.data = parameter.data.to(dtype)
    return converted


PRECISIONS: dict[str, Callable[[Backbone], DecodingModel]] = {
    "auto": laid_out,
    "fp32": laid_out,
    "bf16": in_bfloat16,
    "fp16": in_float16,
    "int8": in_int8,
}
"""``fp32`` decodes the model as it is; so does ``auto`` where no run says in which precision it was trained."""
