"""A decoding step through all layers in one call of C (``step.c``), and the layer norm that it has.

With the rows of one beam, the calls of single operations take as long as their arithmetic. The step has the bits of the
single operations, which are taken where threads can share their work.
"""

import ctypes
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from s2s.inference.c_attention import StepAttention
from s2s.inference.c_code import build
from s2s.inference.c_products import WORTH, CLinear, CQuantisedLinear
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, shares, spread


class MapC(ctypes.Structure):
    """A linear map as step.c has it."""

    _fields_ = (
        *((name, POINTER) for name in ("weight", "shift", "scales", "bias")),
        *((name, LENGTH) for name in ("inputs", "outputs", "span")),
        ("tiny", NUMBER),
    )


class NormC(ctypes.Structure):
    """A layer norm as step.c has it."""

    _fields_ = (("weight", POINTER), ("bias", POINTER), ("epsilon", NUMBER))


class LayerC(ctypes.Structure):
    """A layer as step.c has it."""

    _fields_ = (
        *((name, MapC) for name in ("query_key_value", "output", "grow", "shrink")),
        *((name, NormC) for name in ("attention", "feed_forward")),
    )


class CNorm:
    """A layer norm of rows [N, size] in float32; a row's bits depend on nothing else."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias, self.epsilon = norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps
        self.normalise = build().loaded.normalise

    def __call__(self, x: Tensor) -> Tensor:
        x, size = x.contiguous(), x.shape[-1]
        y = torch.empty_like(x)
        given, written, fixed = x.data_ptr(), y.data_ptr(), (self.weight.data_ptr(), self.bias.data_ptr(), self.epsilon)

        def work(first: int, last: int) -> None:
            self.normalise(given + 4 * size * first, written + 4 * size * first, *fixed, last - first, size)

        spread(work, shares(x.numel() // size, x.numel() // (WORTH >> 4)))
        return y

    @property
    def structure(self) -> NormC:
        """The norm for C, while this object lives."""
        return NormC(self.weight.data_ptr(), self.bias.data_ptr(), self.epsilon)


CMap = CLinear | CQuantisedLinear


class CStep:
    """All layers of a step; each is four maps and two norms, with the exact GELU between the last two maps."""

    def __init__(self, layers: Sequence[tuple[Sequence[CMap], Sequence[CNorm]]], pre: bool) -> None:
        self.kept, self.pre = layers, pre
        structures = [LayerC(*map(_structure, maps), *(norm.structure for norm in norms)) for maps, norms in layers]
        self.layers = (LayerC * len(layers))(*structures)
        maps = [linear for maps, _ in layers for linear in maps]
        self.widest, self.deepest = max(linear.outputs for linear in maps), max(linear.inputs for linear in maps)
        self.work = max(linear.inputs * linear.outputs for linear in maps)
        self.step = build().loaded.step

    def suits(self, attend: object, rows: int) -> TypeGuard[StepAttention]:
        """Return whether a step of these rows is for one thread, and attends in C."""
        if not isinstance(attend, StepAttention):
            return False
        return torch.get_num_threads() == 1 or (rows * self.work < 2 * WORTH and len(attend.parts) == 1)

    def __call__(self, x: Tensor, attend: StepAttention) -> Tensor:
        """Map rows [N, D] through all layers, in place."""
        rows, width = x.shape
        # Numbers of the rows, two rows of the width and one of the widest map, and what int8 rounds.
        narrow, wide = x.new_empty(2, rows, width), x.new_empty(rows, self.widest)
        room = torch.empty(rows * (4 + self.deepest), dtype=torch.uint8)
        addresses = (tensor.data_ptr() for tensor in (x, narrow, wide, room, attend.cache))
        self.step(
            self.layers, len(self.layers), self.pre, *addresses, attend.stride,
            attend.seen.data_ptr(), attend.scores.data_ptr(), attend.sources, attend.rows,
            attend.heads, attend.size, attend.used, attend.room, attend.half,
        )  # fmt: skip
        return x


def _structure(linear: CMap) -> MapC:
    sizes = linear.inputs, linear.outputs
    if isinstance(linear, CLinear):
        return MapC(linear.weight, None, None, linear.bias, *sizes, linear.span, 0.0)
    weight, shift, scales, bias = linear.fixed
    return MapC(weight, shift, scales, bias, *sizes, 0, linear.tiny)
