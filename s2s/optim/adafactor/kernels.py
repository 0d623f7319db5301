"""The passes over large matrices that ``kernels.c`` makes, compiled at first use where there is a compiler.

A pass in torch is several passes over memory; in C it is one. A matrix is cut into the same chunks of rows whatever the
number of threads, so that the result does not depend on it.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from s2s.machine import c_library
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, Built, spread
from s2s.machine.paths import way

LARGE = 1 << 16
"""Number of elements from which a matrix is worth it; a model with smaller ones alone compiles nothing."""
CHUNK = 1 << 20
"""Number of elements that a thread walks at a time."""
WALKED = [LENGTH] * 5
"""Rows, columns, rows of a chunk, and the first chunk and the one after the last."""
FUNCTIONS = {
    "square_sums": [POINTER, *WALKED, POINTER, POINTER],
    "square_forms": [POINTER, POINTER, *WALKED, POINTER, POINTER, POINTER],
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


def row_and_column_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Sum squares over the columns and over the rows: [R, C] -> [R] and [C]."""
    height, width = matrix.shape
    # A row of column sums for each chunk: threads share no memory, and the order of additions is fixed.
    rows, columns = matrix.new_empty(height), matrix.new_zeros(_chunks(height, width)[1], width)
    to = rows.data_ptr(), columns.data_ptr()
    _walk(build().loaded.square_sums, (matrix.data_ptr(),), matrix, to)
    return rows, columns[0] if len(columns) == 1 else columns.sum(dim=0)


def square_forms(gradient: Tensor, parameter: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute sum_ij rows_i gradient_ij^2 columns_j, and the sum of the parameter's squares, as float64 [2]."""
    forms = torch.empty(_chunks(*gradient.shape)[1], 2, dtype=torch.float64)
    rest = rows.data_ptr(), columns.data_ptr(), forms.data_ptr()
    _walk(build().loaded.square_forms, (gradient.data_ptr(), parameter.data_ptr()), gradient, rest)
    return forms[0] if len(forms) == 1 else forms.sum(dim=0)


def move(parameter: Tensor, gradient: Tensor, rows: Tensor, columns: Tensor, keep: float, factor: float) -> None:
    """Set parameter_ij = keep parameter_ij - factor rows_i columns_j gradient_ij."""
    rest = rows.data_ptr(), columns.data_ptr(), keep, factor
    _walk(build().loaded.move, (parameter.data_ptr(), gradient.data_ptr()), gradient, rest)


def _walk(function: Callable[..., object], matrices: tuple[int, ...], shaped: Tensor, rest: tuple[float, ...]) -> None:
    """Call a C function for all chunks of matrices of a shape, an equal number of chunks in each thread."""
    height, width = shaped.shape
    together, number = _chunks(height, width)
    threads = min(torch.get_num_threads(), number)

    def work(thread: int) -> None:
        first, last = thread * number // threads, (thread + 1) * number // threads
        function(*matrices, height, width, together, first, last, *rest)

    spread(work, [(thread,) for thread in range(threads)])


def _chunks(rows: int, columns: int) -> tuple[int, int]:
    """Return the rows of a chunk, and the number of chunks."""
    together = max(1, CHUNK // columns)
    return together, -(-rows // together)
