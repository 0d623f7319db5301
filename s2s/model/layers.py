"""Dropout and linear maps that are fast on a processor."""

from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from s2s.machine.paths import way

STEPS = 1 << 16
"""The number of different rates: 16 bits are drawn for an element."""


def activations() -> Mapping[str, nn.Module]:
    """Return the activation functions of ``transformers`` by their names; a look-up makes a new module."""
    # Its module loads torch's compiler and more, which takes longer than all else that a command's --help imports.
    from transformers.activations import ACT2FN

    return ACT2FN


class Dropout(nn.Dropout):
    """``nn.Dropout``, on a processor with 16 bits an element from one stream (SFC64) that torch's generator seeds.

    torch's own random numbers cost more there than the arithmetic of a norm. The rate is rounded to 1 / 65536 and the
    kept elements are scaled by the rounded rate, so that the mean stays exact. As with torch's dropout, the state of
    its generator before a call determines which elements are dropped.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Set some elements to 0 and scale the others, while training."""
        dropped = round(self.p * STEPS)
        # A compiled graph cannot hold numpy's generator, and a rate that rounds to 1 would make the factor infinite.
        if x.device.type != "cpu" or torch.compiler.is_compiling() or dropped == STEPS:
            return super().forward(x)
        return x * _noise(x, dropped) if self.training and dropped else x


def _noise(x: Tensor, dropped: int) -> Tensor:
    """Return factors: 0 for a share of ``dropped`` / 65536 of the elements, else the number that makes the mean 1."""
    # The seed is all that is drawn from torch's generator, so whoever restores its state (activation checkpointing, a
    # resumed run) gets the same mask again.
    seed, elements = int(torch.randint(2**63 - 1, ())), x.numel()
    # A random integer of 64 bits serves four elements.
    bits = numpy.random.SFC64(seed).random_raw(-(-elements // 4)).view(numpy.uint16)[:elements]
    # numpy has no bfloat16: factors of narrow rows are made in float32 and converted at the end.
    number = numpy.float64 if x.dtype == torch.float64 else numpy.float32
    noise = numpy.multiply(bits >= dropped, number(STEPS / (STEPS - dropped)))
    return torch.from_numpy(noise).view(x.shape).to(x.dtype)


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which products of x are computed: autocast's, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


LARGE = 1 << 27
"""The fewest multiplications for oneDNN's product: a size that is new to it costs it half a millisecond."""


class Linear(nn.Linear):
    """``nn.Linear`` that multiplies by ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b for x [..., inputs] and W [outputs, inputs], as ``torch.nn.functional.linear`` does.

    Large float32 products on a processor go through oneDNN, unless the path ``linear`` (``s2s.machine.paths``) is
    torch's: a training step takes 0.95 of the time (measured on an AMD EPYC, Zen 4).
    """
    if not _suits(x, weight):
        return functional.linear(x, weight, bias)
    rows: Tensor = _Product.apply(x.flatten(0, -2), weight, bias)
    return rows.unflatten(0, x.shape[:-1])


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """Return activation(x W^T + b) by oneDNN for x [N, inputs], without gradients; it names the activation."""
    # The operation that torch's compiler puts in for a linear map with an activation; torch has no public call for it.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return product


def _suits(x: Tensor, weight: Tensor) -> bool:
    # Autocast narrows the operands of torch's own product, but would not touch those of this one.
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    large = x.numel() * len(weight) >= LARGE
    suited = large and plain and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()
    return suited and way("linear") == "onednn"


class _Product(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by differentiable products, so that a second backward can follow."""
        x, weight = context.saved_tensors
        to_x, to_weight, *to_bias = (_wanted(node) for node, _ in context.next_functions)  # of tensors among the inputs
        return (
            linear(gradient, weight.T) if to_x else None,
            gradient.T @ x if to_weight else None,
            gradient.sum(dim=0) if any(to_bias) else None,
        )


def _wanted(node: Any) -> bool:
    """Return whether the present backward needs a node's gradient; torch asks this for its own operations only."""
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # raised for a leaf whose gradient ``torch.autograd.grad`` names
        return True
