"""AdaFactor's step of one parameter whose second moments are kept as rows and columns."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.optim.adafactor.options import Options
from s2s.optim.adafactor.reductions import Run, Scratch, row_and_column_sums, weighted_square_sum
from s2s.optim.adafactor.unfactored import Update


def factored_axes(shape: Sequence[int], options: Options) -> tuple[int, int] | None:
    """The axes of rows and columns: the last two or the two largest, if the shorter is long enough; else None."""
    if len(shape) < 2:
        return None
    axes = list(range(len(shape)))
    if options["largest_axes"]:
        axes.sort(key=lambda axis: shape[axis])
    row, column = sorted(axes[-2:])
    return (row, column) if min(shape[row], shape[column]) >= options["min_dim_size_to_factor"] else None


class FactoredUpdate(Update):
    """Moments v_ij = r_i c_j / mean(r), where r and c are moving averages of row and column means of g^2 + eps1.

    The axes are put into the order [..., rows, columns]; leading axes number matrices that are factored one by one.
    """

    def __init__(
        self,
        name: str,
        parameter: Tensor,
        options: Options,
        state: dict[str, Any],
        scratch: Scratch,
        axes: tuple[int, int],
    ) -> None:
        super().__init__(name, parameter, options, state, scratch)
        self.order = [axis for axis in range(parameter.ndim) if axis not in axes] + list(axes)
        self.parameter, self.gradient = self.parameter.permute(self.order), self.gradient.permute(self.order)
        self.lengths = [self.shape[axis] for axis in self.order]
        self.row, self.column = parameter.ndim - 2, parameter.ndim - 1
        self.cut = self.order.index(self.division.axis) if self.division else None

    def square_gradient(self) -> Tensor:
        """The sum of the gradient's squares, of which rows and columns are kept."""
        self.rows, self.columns = row_and_column_sums(self.gradient)
        return self.rows.sum()

    def measure(self) -> list[Tensor]:
        """Besides the sums of squares, the sums along the axis that is divided."""
        sums = super().measure()
        return sums + [self.columns] * (self.cut == self.row) + [self.rows] * (self.cut == self.column)

    def remember(self) -> list[Tensor]:
        """Count the step and mix the means into rows and columns."""
        self.count()
        *numbers, rows, columns = self.lengths
        self.rows, own_rows = self.remember_means("rows", self.rows / columns, [*numbers, rows], self.column)
        self.columns, _ = self.remember_means("columns", self.columns / rows, [*numbers, columns], self.row)
        self.mean = own_rows.sum(-1, keepdim=True) / rows
        parts = [self.columns] * (self.cut == self.row) + [self.rows] * (self.cut == self.column)
        return parts + [self.mean] * (self.cut in (self.row, self.column))

    def remember_means(self, name: str, means: Tensor, shape: list[int], missing: int) -> tuple[Tensor, Tensor]:
        """Mix means into the state; returns the moving averages and the part of them that this process keeps.

        Where the processes divide the axis that the means were taken over, all know all means, but each keeps only
        its share; the averages returned are then 0 elsewhere, and whole once summed.
        """
        last = len(shape) - 1
        if self.division is None or self.cut != missing:
            moments = self.kept(name, shape, last if self.cut == self.column else self.cut, self.dtype)
            self.mix(moments, means)
            return moments, moments
        share = self.division.share(shape[last])
        moments, averages = self.kept(name, shape, last, self.dtype), torch.zeros_like(means)
        self.mix(moments, means[..., share])
        averages[..., share] = moments
        return averages, moments

    def prepare(self) -> None:
        """Rows relative to their mean, and columns."""
        tiny = torch.finfo(self.dtype).tiny
        self.rows = (self.rows / self.mean.clamp(min=max(tiny, self.floor))).clamp_(min=tiny)
        self.columns = self.columns.clamp(min=tiny)

    def square_update(self) -> Tensor:
        """The sum of g_ij^2 / (r_i c_j), which needs no matrix of updates."""
        if self.floor or self.gradient.ndim > 2:
            return super().square_update()
        return weighted_square_sum(self.gradient, self.rows.reciprocal(), self.columns.reciprocal())

    def scale(self, run: Run) -> Tensor:
        """The run's rows of 1 / sqrt(v)."""
        rows, columns = self.rows[run].unsqueeze(-1), self.columns.unsqueeze(-2)
        if not self.floor:
            rows, columns = rows.rsqrt(), columns.rsqrt()
        product = self.scratch.tensor([*rows.shape[:-1], columns.shape[-1]], rows)
        torch.mul(rows, columns, out=product)
        return product.clamp_(min=self.least).rsqrt_() if self.floor else product

    def momentum(self) -> Tensor:
        """The first moments, their axes ordered."""
        return super().momentum().permute(self.order)
