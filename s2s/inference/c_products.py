"""Linear maps of a decoding step in C (``products.c``), in float32 and with weights in int8.

Both read a matrix once for all rows of a step, and a row's result does not depend on the other rows.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from s2s.inference.c_code import build
from s2s.machine.c_library import shares, spread

PANEL, DEPTH = 16, 4
"""Outputs of a panel of weights, and inputs that are multiplied together in int8; as in the C file."""
MIDDLE = 64
"""The unsigned integer that represents 0 in a row, whose integers run from 1 to 127."""
WORTH = 1 << 20
"""The fewest multiplications for a second thread; an element of a norm or an activation counts as 16."""


class Panels:
    """A map of rows [N, inputs] to [N, outputs], whose groups of panels threads share."""

    inputs: int
    outputs: int
    groups: int

    def __call__(self, x: Tensor) -> Tensor:
        # Not len(x): a function of Python, it costs as much as the rest of this call.
        x, number = x.contiguous(), x.shape[0]
        y = x.new_empty(number, self.outputs)
        work = partial(self.compute, x.data_ptr(), y.data_ptr(), number)
        spread(work, shares(self.groups, number * self.inputs * self.outputs // WORTH))
        return y

    def compute(self, x: int, y: int, number: int, first: int, last: int) -> None:
        """Compute the groups first .. last - 1 of the outputs of rows, given the addresses of x and y."""
        raise NotImplementedError  # float32 and int8 have their own C functions


class CLinear(Panels):
    """x W^T + b, with W in panels [panels, inputs, PANEL] and b padded to whole panels."""

    def __init__(self, weight: Tensor, bias: Tensor, span: int | None = None) -> None:
        """Lay out a weight [outputs, inputs] and a bias; ``span`` inputs are summed before their sums are, or all."""
        self.outputs, self.inputs = weight.shape
        self.span = span or self.inputs
        panels = _padded(weight).view(-1, PANEL, self.inputs).transpose(1, 2).contiguous()
        self.kept = panels, _padded(bias)
        # Asking a tensor for its address costs as much as the call of C.
        self.weight, self.bias = (tensor.data_ptr() for tensor in self.kept)
        self.multiply, self.groups = build().loaded.multiply, _groups(self.outputs)

    def compute(self, x: int, y: int, number: int, first: int, last: int) -> None:
        """Compute some groups."""
        self.multiply(x, self.weight, self.bias, y, self.span, number, self.inputs, self.outputs, first, last)


class CQuantisedLinear(Panels):
    """The same with W in int8, in panels [panels, inputs / DEPTH, PANEL, DEPTH], and x in 7 bits; sums are exact."""

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor, tiny: float) -> None:
        """Lay out a weight int8 [outputs, inputs], whose inputs are a multiple of DEPTH, and its scales and bias.

        ``tiny`` is the least magnitude of a row.
        """
        self.outputs, self.inputs = weight.shape
        padded = _padded(weight)
        panels = padded.view(-1, PANEL, self.inputs // DEPTH, DEPTH).transpose(1, 2).contiguous()
        shift = MIDDLE * padded.sum(dim=1, dtype=torch.int32)
        self.kept = panels, shift, _padded(scales), _padded(bias)
        self.fixed, self.tiny = [tensor.data_ptr() for tensor in self.kept], tiny
        self.multiply, self.groups = build().loaded.multiply_integers, _groups(self.outputs)

    def compute(self, x: int, y: int, number: int, first: int, last: int) -> None:
        """Compute some groups."""
        room = torch.empty(number * (4 + self.inputs), dtype=torch.uint8)  # each thread rounds all rows for itself
        self.multiply(x, *self.fixed, y, room.data_ptr(), self.tiny, number, self.inputs, self.outputs, first, last)


def gelu(x: Tensor) -> Tensor:
    """Return x (1 + erf(x / sqrt(2))) / 2, computed in place for float32; an element's bits depend on nothing else."""
    address, function = x.data_ptr(), build().loaded.gelu
    spread(
        lambda first, last: function(address + 4 * first, last - first), shares(x.numel(), x.numel() // (WORTH >> 4))
    )
    return x


def _padded(tensor: Tensor) -> Tensor:
    """Return a copy with zeros after the outputs, up to whole panels."""
    return pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, -len(tensor) % PANEL)).contiguous().clone()


def _groups(outputs: int) -> int:
    """Return the number of the groups of panels that C walks together."""
    together = torch.zeros(1, dtype=torch.int64)
    build().loaded.together(together.data_ptr())
    return -(-outputs // (PANEL * int(together)))
