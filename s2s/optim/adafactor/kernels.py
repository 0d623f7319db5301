"""The passes over large matrices that ``kernels.c`` makes, compiled at first use where there is a compiler.

A pass in torch is several passes over memory; in C it is one. A matrix is cut into the same chunks of rows whatever the
number of threads, so that the result does not depend on it.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.machine import c_library
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, Built, shares, spread
from s2s.machine.paths import way

LARGE = 1 << 16
"""Number of elements from which a matrix is worth it; a model with smaller ones alone compiles nothing."""
CHUNK = 1 << 20
"""Number of elements that a thread walks at a time."""
WALKED = [LENGTH] * 5
"""Rows, columns, rows of a chunk, and the first chunk and the one after the last."""
FUNCTIONS = {
    "square_sums": [POINTER, *WALKED, POINTER, NUMBER, NUMBER, POINTER, POINTER, POINTER],
    "square_sum": [POINTER, *WALKED, POINTER],
    "move": [POINTER, POINTER, *WALKED, POINTER, POINTER, NUMBER, NUMBER],
}


@lru_cache(maxsize=1)
def build() -> Built:
    """Return the library; the first call on a machine compiles it."""
    return c_library.build([Path(__file__).with_name("kernels.c")], FUNCTIONS)


def usable(*matrices: Tensor) -> bool:
    """Return whether matrices of one shape suit the library: large, float32, on the processor, row after row."""
    plain = all(
        matrix.dtype == torch.float32 and matrix.is_contiguous() and matrix.device.type == "cpu" for matrix in matrices
    )
    large = plain and matrices[0].ndim == 2 and matrices[0].numel() >= LARGE
    return large and way("adafactor") == "c" and build().functions is not None


class Sums(NamedTuple):
    """Sums of a gradient's squares [R, C]."""

    rows: Tensor  # [R], over the columns
    columns: Tensor  # [C], over the rows
    weighted: Tensor | None  # [C], over the rows, each divided by its moving average after this gradient


def row_and_column_sums(gradient: Tensor, means: Tensor, share: float, added: float, weighted: bool) -> Sums:
    """Sum squares over the columns and over the rows, and over ``weighted`` rows where that is asked for.

    ``means`` [R] are the moving averages of rows before; after this gradient they are mixed with the ``share`` of its
    means plus ``added``, as AdaFactor does. The update's squares need those sums, and so no pass of their own.
    """
    height, width = gradient.shape
    # A row of column sums for each chunk: threads share no memory, and the order of additions is fixed.
    shape = _chunks(height, width)[1], width
    rows, columns = gradient.new_empty(height), [gradient.new_zeros(shape) for _ in range(1 + weighted)]
    addresses = [part.data_ptr() for part in (rows, *columns)] + [0] * (not weighted)
    _walk(build().loaded.square_sums, (gradient.data_ptr(),), gradient, (means.data_ptr(), share, added, *addresses))
    totals = [part[0] if len(part) == 1 else part.sum(dim=0) for part in columns]
    return Sums(rows, totals[0], totals[1] if weighted else None)


def square_sum(matrix: Tensor) -> float:
    """Return the sum of a matrix's squares."""
    sums = torch.empty(_chunks(*matrix.shape)[1], dtype=torch.float64)
    _walk(build().loaded.square_sum, (matrix.data_ptr(),), matrix, (sums.data_ptr(),))
    return float(sums.sum())


def move(parameter: Tensor, gradient: Tensor, rows: Tensor, columns: Tensor, keep: float, factor: float) -> None:
    """Set parameter_ij = keep parameter_ij - factor rows_i columns_j gradient_ij."""
    rest = rows.data_ptr(), columns.data_ptr(), keep, factor
    _walk(build().loaded.move, (parameter.data_ptr(), gradient.data_ptr()), gradient, rest)


def _walk(function: Callable[..., object], matrices: tuple[int, ...], shaped: Tensor, rest: tuple[float, ...]) -> None:
    """Call a C function for all chunks of matrices of a shape, an equal number of chunks in each thread."""
    height, width = shaped.shape
    together, number = _chunks(height, width)

    def work(first: int, last: int) -> None:
        function(*matrices, height, width, together, first, last, *rest)

    spread(work, shares(number, number))


def _chunks(rows: int, columns: int) -> tuple[int, int]:
    """Return the rows of a chunk, and the number of chunks."""
    together = max(1, CHUNK // columns)
    return together, -(-rows // together)
