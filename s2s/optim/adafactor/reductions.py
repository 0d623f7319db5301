"""Sums of a matrix's squares along its axes and weighted by its factors, each in one pass over memory.

A matrix is walked in chunks of rows that fit the processor's cache, so that a computation of several operations reads
each chunk from memory once.
"""

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

CHUNK = 1 << 20
"""Number of elements that are walked at a time on a CPU."""
Rows = slice | EllipsisType
"""An index of some rows, or of the whole tensor."""


def precise(dtype: torch.dtype) -> torch.dtype:
    """Return the type of statistics of elements of a type: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def chunks(tensor: Tensor) -> Iterator[Rows]:
    """Yield the chunks of rows of a matrix; any other tensor, and one on an accelerator, is one chunk."""
    if tensor.ndim != 2 or tensor.device.type != "cpu":
        return iter([...])
    if tensor.numel() <= CHUNK:
        return iter([...] if tensor.numel() else [])
    rows = max(1, CHUNK // tensor.shape[1])
    return (slice(start, start + rows) for start in range(0, tensor.shape[0], rows))


class Workspace:
    """Memory for intermediate results of a chunk, reused: touching fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self.kept = dict[tuple[torch.dtype, torch.device], Tensor]()

    def tensor(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor, valid until the next call."""
        size, key = math.prod(shape), (like.dtype, like.device)
        if key not in self.kept or self.kept[key].numel() < size:
            self.kept[key] = like.new_empty(size)
        return self.kept[key][:size].view(shape)


def square_sum(tensor: Tensor) -> Tensor:
    """Sum the squares of all elements."""
    dtype = precise(tensor.dtype)
    # The square of a norm is one pass over memory; the sum of squares would be two, and a temporary tensor.
    parts = [torch.linalg.vector_norm(tensor[rows], dtype=dtype).square_() for rows in chunks(tensor)]
    return parts[0] if len(parts) == 1 else sum(parts, start=tensor.new_zeros((), dtype=dtype))


def row_and_column_sums(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Sum squares over the last axis and over the last but one: [..., R, C] -> [..., R] and [..., C]."""
    dtype = precise(tensor.dtype)
    if tensor.ndim > 2:
        squares = tensor.to(dtype).square()
        return squares.sum(-1), squares.sum(-2)
    row_sums = tensor.new_empty(tensor.shape[0], dtype=dtype)
    column_sums = tensor.new_zeros(tensor.shape[1], dtype=dtype)
    ones, zeros = torch.ones_like(row_sums)[:, None], torch.zeros_like(row_sums)[:, None]
    for rows in chunks(tensor):
        part = tensor[rows].to(dtype)
        torch.linalg.vector_norm(part, dim=-1, out=row_sums[rows])
        column_sums += _weighted_column_sums(part, ones[rows], zeros[rows], column_sums)
    return row_sums.square_(), column_sums


def weighted_square_sum(matrix: Tensor, row_weights: Tensor, column_weights: Tensor) -> Tensor:
    """Compute the bilinear form sum_ij row_weights_i matrix_ij^2 column_weights_j of a matrix [R, C]."""
    totals, weights = torch.zeros_like(column_weights), row_weights[:, None]
    zeros = torch.zeros_like(weights)
    for rows in chunks(matrix):
        totals += _weighted_column_sums(matrix[rows].to(totals.dtype), weights[rows], zeros[rows], column_weights)
    return torch.dot(totals, column_weights)


def _weighted_column_sums(matrix: Tensor, weights: Tensor, zeros: Tensor, gain: Tensor) -> Tensor:
    """Compute sum_i weights_i matrix_ij^2 for each column j: [R, C] and [R, 1] -> [C].

    The gradient of a layer norm's gain is sum_i upstream_ij (input_ij - mean_i) / deviation_i. With the matrix as
    upstream gradient and as input, means 0 and deviations 1 / weights, this is the sum wanted, and torch computes it
    in one pass over the matrix, without a matrix of squares. Of the gain only the shape counts.
    """
    _, sums, _ = torch.ops.aten.native_layer_norm_backward(
        matrix, matrix, [matrix.shape[1]], zeros, weights, gain, None, [False, True, False]
    )
    return sums
