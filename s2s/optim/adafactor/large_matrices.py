"""AdaFactor's passes over large matrices in C (``kernels.c``), compiled at first use where there is a compiler.

A pass in torch is several passes over memory; in C it is one. A matrix is walked in the same runs of rows whatever the
number of threads, so that the result does not depend on it.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from s2s.machine import c_library
from s2s.machine.c_library import LENGTH, NUMBER, POINTER, Built, spread
from s2s.optim.adafactor import large_matrices
from s2s.optim.adafactor.factored import FactoredUpdate

LARGE = 1 << 16
"""From how many elements on a matrix is worth it; a model with smaller ones alone compiles nothing."""
RUN = 1 << 20
"""How many elements a thread walks at a time."""
FUNCTIONS = {
    "square_sums": [POINTER, LENGTH, LENGTH, POINTER, POINTER],
    "square_forms": [POINTER, POINTER, LENGTH, LENGTH, POINTER, POINTER, POINTER],
    "move": [POINTER, POINTER, LENGTH, LENGTH, POINTER, POINTER, NUMBER, NUMBER],
}


def usable(*matrices: Tensor) -> bool:
    """Whether these matrices of one shape can be walked in C: large, float32, on the processor, row after row."""
    plain = all(each.dtype == torch.float32 and each.is_contiguous() and each.device.type == "cpu" for each in matrices)
    return plain and matrices[0].ndim == 2 and matrices[0].numel() >= LARGE and build().library is not None


def row_and_column_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of squares over the columns and over the rows: [R, C] -> [R] and [C]."""
    height, width = matrix.shape
    parts = _runs(height, width)
    rows, columns = matrix.new_empty(height), matrix.new_zeros(len(parts), width)

    def work(number: int, start: int, count: int) -> None:
        build().loaded.square_sums(_at(matrix, start), count, width, _at(rows, start), _at(columns, number))

    spread(work, parts)
    return rows, columns.sum(dim=0)


def square_forms(gradient: Tensor, parameter: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """sum_ij rows_i gradient_ij^2 columns_j, and the sum of the parameter's squares: float64 [2]."""
    parts, width = _runs(*gradient.shape), gradient.shape[1]
    forms = torch.empty(len(parts), 2, dtype=torch.float64)

    def work(number: int, start: int, count: int) -> None:
        walked = _at(gradient, start), _at(parameter, start), count, width
        build().loaded.square_forms(*walked, _at(rows, start), columns.data_ptr(), _at(forms, number))

    spread(work, parts)
    return forms.sum(dim=0)


def move(parameter: Tensor, gradient: Tensor, rows: Tensor, columns: Tensor, keep: float, factor: float) -> None:
    """parameter_ij = keep parameter_ij - factor rows_i columns_j gradient_ij, in place."""
    width = gradient.shape[1]

    def work(number: int, start: int, count: int) -> None:  # noqa: ARG001
        walked = _at(parameter, start), _at(gradient, start), count, width
        build().loaded.move(*walked, _at(rows, start), columns.data_ptr(), keep, factor)

    spread(work, _runs(*gradient.shape))


def _runs(rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Number, first row and rows of each run."""
    together = max(1, RUN // columns)
    return [(number, row, min(together, rows - row)) for number, row in enumerate(range(0, rows, together))]


def _at(tensor: Tensor, row: int) -> int:
    """Where a row of a contiguous tensor lies."""
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()


@lru_cache(maxsize=1)
def build() -> Built:
    """The library, compiled at the first call on this machine."""
    return c_library.build(Path(__file__).with_name("kernels.c"), FUNCTIONS)


class Matrices:
    """The steps of factored matrices with the same options and number of steps so far, without momentum."""

    division = None

    def __init__(self, parts: Sequence[FactoredUpdate]) -> None:
        self.parts, self.first = parts, parts[0]
        self.names = [name for part in parts for name in part.names]
        self.gradient = self.first.gradient
        self.squares = self.gradient.new_empty(0)

    def measure(self) -> list[Tensor]:
        """The sums of the gradients' squares, in which anything not finite shows; rows and columns of them are kept."""
        sums = [large_matrices.row_and_column_sums(part.gradient) for part in self.parts]
        self.rows, self.columns = [rows for rows, _ in sums], [columns for _, columns in sums]
        self.gradient_squares = torch.stack(torch._foreach_norm(self.rows, 1))
        return [self.gradient_squares]

    def remember(self) -> list[Tensor]:
        """Count the step and mix the means into rows and columns; of these the roots of the inverses are kept."""
        for part in self.parts:
            part.count()
        heights, widths = ([float(part.gradient.shape[axis]) for part in self.parts] for axis in (0, 1))
        rows, columns = self._moments("rows", self.rows, widths), self._moments("columns", self.columns, heights)
        tiny = torch.finfo(torch.float32).tiny
        totals = torch.stack(torch._foreach_norm(rows, 1)).tolist()
        means = [max(total / height, tiny) for total, height in zip(totals, heights, strict=True)]
        self.rows = self._inverse_roots(torch._foreach_div(rows, means))
        self.columns = self._inverse_roots(columns)
        return []

    def compare(self) -> list[Tensor]:
        """Nothing: a matrix is compared when it is about to be changed, and then still in the cache."""
        return []

    def apply(self, squares: list[float]) -> None:  # noqa: ARG002
        """Change the parameters."""
        for part, rows, columns in zip(self.parts, self.rows, self.columns, strict=True):
            sums = large_matrices.square_forms(part.gradient, part.parameter, rows.square(), columns.square())
            plan = part.plan(*sums.tolist())
            large_matrices.move(part.parameter, part.gradient, rows, columns, plan.keep, plan.factor)

    def _moments(self, name: str, sums: list[Tensor], lengths: list[float]) -> list[Tensor]:
        """The state of that name, with the means of these sums mixed in."""
        kept = [
            part.kept(name, part_sums.shape, None, part.dtype) for part, part_sums in zip(self.parts, sums, strict=True)
        ]
        torch._foreach_div_(sums, lengths)
        torch._foreach_add_(sums, self.first.added)
        torch._foreach_lerp_(kept, sums, self.first.share())
        return kept

    def _inverse_roots(self, moments: Sequence[Tensor]) -> list[Tensor]:
        tiny = torch.finfo(torch.float32).tiny
        return list(torch._foreach_rsqrt(torch._foreach_clamp_min(list(moments), tiny)))


def walkable(part: FactoredUpdate) -> bool:
    """Whether a matrix can be walked in C, and may."""
    plain = not part.floor and not part.options["beta1"] and part.division is None
    return plain and part.options["compiled"] and large_matrices.usable(part.gradient, part.parameter)
