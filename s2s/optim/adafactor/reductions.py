"""Sums of a matrix's squares along its axes and weighted by its factors, each in one pass over memory.

A matrix is walked in runs of rows that stay in the processor's cache, so that what is computed from them in several
steps is read from memory once.
"""

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

RUN = 1 << 20
"""How many elements are walked at a time on a CPU."""
Run = slice | EllipsisType
"""An index of some rows, or of all there is."""


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type in which statistics of such elements are kept: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def runs(tensor: Tensor) -> Iterator[Run]:
    """The runs of rows that a matrix is walked in; any other tensor, and one on an accelerator, is one run."""
    if tensor.ndim != 2 or tensor.device.type != "cpu":
        return iter([...])
    if tensor.numel() <= RUN:
        return iter([...] if tensor.numel() else [])
    rows = max(1, RUN // tensor.shape[1])
    return (slice(start, start + rows) for start in range(0, tensor.shape[0], rows))


class Scratch:
    """Memory for what is computed from a run, used over and over: touching fresh memory costs more than arithmetic."""

    def __init__(self) -> None:
        self.kept = dict[tuple[torch.dtype, torch.device], Tensor]()

    def tensor(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of that shape, which holds anything and is good until the next call."""
        size, key = math.prod(shape), (like.dtype, like.device)
        if key not in self.kept or self.kept[key].numel() < size:
            self.kept[key] = like.new_empty(size)
        return self.kept[key][:size].view(shape)


def square_sum(tensor: Tensor) -> Tensor:
    """The sum of all squares."""
    dtype = precise(tensor.dtype)
    parts = [torch.linalg.vector_norm(tensor[run], dtype=dtype).square_() for run in runs(tensor)]
    return parts[0] if len(parts) == 1 else sum(parts, start=tensor.new_zeros((), dtype=dtype))


def row_and_column_sums(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of squares over the last axis and over the last but one: [..., R, C] -> [..., R] and [..., C]."""
    dtype = precise(tensor.dtype)
    if tensor.ndim > 2:
        squares = tensor.to(dtype).square()
        return squares.sum(-1), squares.sum(-2)
    rows = tensor.new_empty(tensor.shape[0], dtype=dtype)
    columns = tensor.new_zeros(tensor.shape[1], dtype=dtype)
    ones, zeros = torch.ones_like(rows)[:, None], torch.zeros_like(rows)[:, None]
    for run in runs(tensor):
        part = tensor[run].to(dtype)
        torch.linalg.vector_norm(part, dim=-1, out=rows[run])
        columns += _weighted_column_sums(part, ones[run], zeros[run], columns)
    return rows.square_(), columns


def weighted_square_sum(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bilinear form sum_ij rows_i matrix_ij^2 columns_j of a matrix [R, C]."""
    total, weights, zeros = torch.zeros_like(columns), rows[:, None], torch.zeros_like(rows)[:, None]
    for run in runs(matrix):
        total += _weighted_column_sums(matrix[run].to(columns.dtype), weights[run], zeros[run], columns)
    return torch.dot(total, columns)


def _weighted_column_sums(matrix: Tensor, weights: Tensor, zeros: Tensor, gain: Tensor) -> Tensor:
    """For each column j, sum_i weights_i matrix_ij^2: [R, C] and [R, 1] -> [C].

    The gradient of a layer norm's gain is sum_i upstream_ij (input_ij - mean_i) / deviation_i. With the matrix as
    upstream gradient and as input, means 0 and deviations 1 / weights, this is the sum wanted, and torch computes it
    in one pass over the matrix, without a matrix of squares. Of the gain only the shape counts.
    """
    _, sums, _ = torch.ops.aten.native_layer_norm_backward(
        matrix, matrix, [matrix.shape[1]], zeros, weights, gain, None, [False, True, False]
    )
    return sums
