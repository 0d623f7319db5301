"""AdaFactor's step of large matrices, each walked three times in C; what is small is computed for all at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.optim import compiled
from s2s.optim.factored import FactoredUpdate


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
        sums = [compiled.row_and_column_sums(part.gradient) for part in self.parts]
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
            sums = compiled.square_forms(part.gradient, part.parameter, rows.square(), columns.square())
            plan = part.plan(*sums.tolist())
            compiled.move(part.parameter, part.gradient, rows, columns, plan.keep, plan.factor)

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
    return plain and part.options["compiled"] and compiled.usable(part.gradient, part.parameter)
