"""The passes over large matrices that ``kernels.c`` makes, compiled at first use where there is a compiler.

A pass in torch is several passes over memory; in C it is one. A matrix is cut into the same chunks of rows whatever the
number of threads, so that the result does not depend on it.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from s2s.machine import c_library
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, Built, spread

LARGE = 1 << 16
"""Number of elements from which a matrix is worth it; a model with smaller ones alone compiles nothing."""
CHUNK = 1 << 20
"""Number of elements that a thread walks at a time."""
FUNCTIONS = {
    "square_sums": [POINTER, LENGTH, LENGTH, POINTER, POINTER],
    "square_forms": [POINTER, POINTER, LENGTH, LENGTH, POINTER, POINTER, POINTER],
    "move": [POINTER, POINTER, LENGTH, LENGTH, POINTER, POINTER, NUMBER, NUMBER],
}


@lru_cache(maxsize=1)
def build() -> Built:
    """Return the library; the first call on a machine compiles it."""
    return c_library.build(Path(__file__).with_name("kernels.c"), FUNCTIONS)


def usable(*matrices: Tensor) -> bool:
    """Return whether matrices of one shape suit the library: large, float32, on the processor, row after row."""
    plain = all(
        matrix.dtype == torch.float32 and matrix.is_contiguous() and matrix.device.type == "cpu" for matrix in matrices
    )
    return plain and matrices[0].ndim == 2 and matrices[0].numel() >= LARGE and build().functions is not None


def row_and_column_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sum squares over the columns and over the rows: [R, C] -> [R] and [C]."""
    height, width = matrix.shape
    parts = _chunks(height, width)
    # A row of column sums for each chunk: threads share no memory, and the order of additions is fixed.
    rows, columns = matrix.new_empty(height), matrix.new_zeros(len(parts), width)

    def work(number: int, start: int, count: int) -> None:
        build().loaded.square_sums(_at(matrix, start), count, width, _at(rows, start), _at(columns, number))

    spread(work, parts)
    return rows, columns.sum(dim=0)


def square_forms(gradient: Tensor, parameter: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute sum_ij rows_i gradient_ij^2 columns_j, and the sum of the parameter's squares, as float64 [2]."""
    parts, width = _chunks(*gradient.shape), gradient.shape[1]
    forms = torch.empty(len(parts), 2, dtype=torch.float64)

    def work(number: int, start: int, count: int) -> None:
        walked = _at(gradient, start), _at(parameter, start), count, width
        build().loaded.square_forms(*walked, _at(rows, start), columns.data_ptr(), _at(forms, number))

    spread(work, parts)
    return forms.sum(dim=0)


def move(parameter: Tensor, gradient: Tensor, rows: Tensor, columns: Tensor, keep: float, factor: float) -> None:
    """Set parameter_ij = keep parameter_ij - factor rows_i columns_j gradient_ij."""
    width = gradient.shape[1]

    def work(number: int, start: int, count: int) -> None:  # noqa: ARG001
        walked = _at(parameter, start), _at(gradient, start), count, width
        build().loaded.move(*walked, _at(rows, start), columns.data_ptr(), keep, factor)

    spread(work, _chunks(*gradient.shape))


def _chunks(rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Return number, first row and rows of each chunk."""
    together = max(1, CHUNK // columns)
    return [(number, row, min(together, rows - row)) for number, row in enumerate(range(0, rows, together))]


def _at(tensor: Tensor, row: int) -> int:
    """Return the address of a row of a contiguous tensor."""
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()
