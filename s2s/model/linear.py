"""Linear maps, with oneDNN's float32 product where a processor has many rows to multiply.

torch's default product there reads a matrix as it lies. oneDNN's reorders it first, which pays from thousands of rows
on: forward, and backward where the gradient meets the transposed matrix. The products with which weights get their
gradients are as fast by default.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

LARGE = 1 << 27
"""From how many multiplications on: a size that oneDNN has not seen before costs it half a millisecond."""


class Linear(nn.Linear):
    """``nn.Linear`` with the product of ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b for x [..., inputs] and W [outputs, inputs], as ``torch.nn.functional.linear``."""
    if not _suits(x, weight):
        return functional.linear(x, weight, bias)
    rows: Tensor = _Product.apply(x.flatten(0, -2), weight, bias)
    return rows.unflatten(0, x.shape[:-1])


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """X W^T + b by oneDNN, and an activation by its name there, without gradients; x is [N, inputs]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    return product


def _suits(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    large = x.numel() * len(weight) >= LARGE
    return large and plain and torch.backends.mkldnn.is_available() and not torch.compiler.is_compiling()


class _Product(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Made of differentiable products, so that a second backward can follow."""
        x, weight = context.saved_tensors
        to_x, to_weight, *to_bias = (_wanted(node) for node, _ in context.next_functions)  # of the tensors among inputs
        return (
            linear(gradient, weight.T) if to_x else None,
            gradient.T @ x if to_weight else None,
            gradient.sum(dim=0) if any(to_bias) else None,
        )


def _wanted(node: Any) -> bool:
    """Whether the backward that runs now goes on to a node; torch asks this for its own operations only."""
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # of a leaf whose gradient was asked for by name
        return True
