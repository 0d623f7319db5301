"""The product of hidden rows with a table of V pieces, which on a GPU is filled up to a multiple of 64 rows.

Tensor cores read 16 bytes at a time. A product in which V, the length of a row of scores, is no multiple of that falls
back to slower kernels; nanoGPT's training took a quarter less time with 50304 pieces in place of 50257. Parameters,
checkpoints and scores keep V; only the product has W, the next multiple of 64: rows of zeros fill the table and the
bias, and their scores are cut off before anything reads them.

Cost, for 30,001 pieces of width 768: the copy moves 184 MB in float32, 0.09 ms at 2 TB/s. A pass over 4096 target
tokens multiplies 0.57 TFLOP (scores, and the gradients of rows and table), which are 3.6 ms at an A100's 156 TFLOP/s of
TF32 and 1.8 ms at its 312 of bfloat16; where a fifth of that is lost, the copy gains at least four times its own time.
A table in other storage, with V of its W rows as the parameter, would spare the copy, but FSDP2 divides a parameter's
own storage, and ``to``, ``deepcopy`` and loading would each bring the unfilled one back.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.model.layers import product_dtype

DEVICE = "cuda"
"""Kind of device on which tables are filled up."""
MULTIPLE = 64
"""Number of which W is a multiple: whole lines of 128 bytes in half precision, as nanoGPT has it."""
MANY = 1024
"""Number of rows from which the copy pays: with fewer the product takes hardly longer than reading the table."""


def filled(part: Tensor, rows: int = MANY, value: float = 0.0) -> Tensor:
    """Return a table [V, ...] as [W, ...] with ``value`` after V; itself where a product with ``rows`` rows needs none.

    It is differentiable, and more than once.
    """
    missing = -len(part) % MULTIPLE
    if not missing or part.device.type != DEVICE or rows < MANY:
        return part
    return torch.cat([part, part.new_full((missing, *part.shape[1:]), value)])


def scores(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute hidden weight^T + bias, [..., V], of rows [..., D], weight [V, D] and bias [V], by a filled table."""
    rows = hidden.numel() // hidden.shape[-1]
    wide = functional.linear(hidden, filled(weight, rows), filled(bias, rows))
    if wide.shape[-1] == len(weight):
        return wide
    # Whoever reads half precision converts it, which makes a copy without gaps anyway.
    narrow = wide[..., : len(weight)]
    return narrow if narrow.element_size() == 2 else narrow.contiguous()


class OutputRows(NamedTuple):
    """Hidden rows [N, D], and the weight [V, D] and bias [V] that turn them into scores of the next token."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def cast(self) -> "CastRows":
        """Return the tensors in autocast's type, if it is on, and with a filled table."""
        dtype = product_dtype(self.hidden)
        weight, bias = (filled(part.to(dtype), len(self.hidden)) for part in (self.weight, self.bias))
        return CastRows(self.hidden.to(dtype), weight, bias, len(self.weight))


class CastRows(NamedTuple):
    """``OutputRows`` in the type and size of their product: hidden rows [N, D], weight [W, D] and bias [W]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    pieces: int  # V

    def wide_scores(self, rows: slice) -> Tensor:
        """Return the scores [n, W] of a slice of rows, which are 0 after V."""
        wide = functional.linear(self.hidden[rows], self.weight, self.bias)
        return wide.to(torch.promote_types(wide.dtype, torch.float32))

    def scores(self, rows: slice) -> Tensor:
        """Return the scores [n, V] of a slice of rows."""
        wide = functional.linear(self.hidden[rows], self.weight, self.bias)
        return wide[:, : self.pieces].to(torch.promote_types(wide.dtype, torch.float32)).contiguous()

    def wide(self, gradient: Tensor) -> Tensor:
        """Return the gradient of scores [n, V] or [n, W] as [n, W], in the type of the product."""
        if gradient.shape[1] == len(self.weight):
            return gradient.to(self.weight.dtype)
        wide = self.weight.new_zeros(len(gradient), len(self.weight))
        wide[:, : self.pieces] = gradient
        return wide
