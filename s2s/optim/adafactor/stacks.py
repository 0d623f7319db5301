"""AdaFactor's steps of several matrices of one shape, computed as one tensor: on a GPU each operation is a launch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.optim.adafactor.updates import FactoredUpdate, Update

DEVICE = "cuda"
"""Kind of device on which matrices are stacked: a processor has no launches to save, and its cache holds one matrix."""
STACK = 1 << 24
"""Largest number of elements of a stack: 64 MiB of float32, over which a pass takes far longer than its launch."""


class StackedMatrices:
    """The steps of n factored matrices of one shape [..., R, C], computed as tensors [n, ..., R, C].

    Gradients and parameters stay where they are. Between its phases a stage keeps the sums of rows and columns alone;
    within one it holds a tensor of ``STACK`` elements, and two where there is a momentum.
    """

    division = None

    def __init__(self, parts: Sequence[FactoredUpdate]) -> None:
        self.parts, self.first = parts, parts[0]
        self.names = [name for part in parts for name in part.names]
        self.gradients, self.parameters = [part.gradient for part in parts], [part.parameter for part in parts]
        self.gradient = self.first.gradient

    @staticmethod
    def suit(update: Update) -> bool:
        """Return whether a parameter is a whole factored matrix on a GPU that may be stacked, all of it of one type."""
        # From half a stack on there is nothing to save: a matrix alone is read without a copy.
        factored = isinstance(update, FactoredUpdate) and 0 < 2 * update.elements <= STACK
        alike = update.parameter.dtype == update.gradient.dtype == update.dtype
        return factored and alike and update.division is None and update.gradient.device.type == DEVICE

    def measure(self) -> list[Tensor]:
        """Sum the squares of each gradient by row and by column, and in all."""
        # A norm squares without a tensor of squares.
        gradients = torch.stack(self.gradients)
        self.rows, self.columns = (torch.linalg.vector_norm(gradients, dim=axis).square_() for axis in (-1, -2))
        self.gradient_squares = self.rows.flatten(1).sum(dim=1)
        return [self.gradient_squares]

    def remember(self) -> list[Tensor]:
        """Count the step, mix the means into rows and columns, and divide the rows by their mean."""
        for part in self.parts:
            part.count()
        rows = self._mixed("rows", self.rows.div_(self.columns.shape[-1]))
        self.columns = self._mixed("columns", self.columns.div_(self.rows.shape[-1]))
        tiny = torch.finfo(rows.dtype).tiny
        self.rows = rows.div_(rows.mean(dim=-1, keepdim=True).clamp_(min=max(tiny, self.first.floor)))
        for factors in (self.rows, self.columns):
            factors.clamp_(min=tiny)
        return []

    def compare(self) -> list[Tensor]:
        """Sum the squares of each update, if it is to be clipped, and of each parameter, if it scales the step."""
        options, zeros = self.first.options, torch.zeros_like(self.gradient_squares)
        update = zeros if options["clip_threshold"] is None else self._square_updates()
        scaled = options["scale_parameter"]
        parameter = torch.stack(torch._foreach_norm(self.parameters)).square_() if scaled else zeros
        self.squares = torch.stack([update, parameter], dim=1)
        return [self.squares]

    def apply(self, squares: list[list[float]]) -> None:
        """Change the momenta and the parameters, given the sums of ``compare``."""
        plans = [part.plan(*sums) for part, sums in zip(self.parts, squares, strict=True)]
        # Without decay a pass over all parameters is saved.
        if any(plan.keep != 1 for plan in plans):
            torch._foreach_mul_(self.parameters, [plan.keep for plan in plans])
        beta1, factors = self.first.options["beta1"], [plan.factor for plan in plans]
        if not beta1:
            scales = self._scales().unbind()
            torch._foreach_addcmul_(self.parameters, self.gradients, scales, [-factor for factor in factors])
            return
        momenta = [part.momentum() for part in self.parts]
        means = torch.stack(momenta).to(self.gradient.dtype).mul_(beta1)
        steps, mixed = means.unbind(), [factor * (1 - beta1) for factor in factors]
        torch._foreach_addcmul_(steps, self.gradients, self._scales().unbind(), mixed)
        torch._foreach_copy_(momenta, steps)
        if any(plan.size != 1 for plan in plans):
            torch._foreach_mul_(steps, [plan.size for plan in plans])
        torch._foreach_sub_(self.parameters, steps)

    def _mixed(self, name: str, means: Tensor) -> Tensor:
        """Mix means [n, ...] into the states of that name, and return a copy of these."""
        stored = [part.stored(name, means.shape[1:], None, part.dtype) for part in self.parts]
        torch._foreach_lerp_(stored, means.add_(self.first.added).unbind(), self.first.share())
        return torch.stack(stored)

    def _square_updates(self) -> Tensor:
        """Sum the squares of each update before it is clipped."""
        updates = self._scales()
        torch._foreach_mul_(updates.unbind(), self.gradients)
        return torch.linalg.vector_norm(updates.flatten(1), dim=1).square_()

    def _scales(self) -> Tensor:
        """Compute 1 / sqrt(v) of each element, as ``FactoredUpdate.scale`` does."""
        rows, columns = self.rows[..., None], self.columns[..., None, :]
        if self.first.floor:
            return (rows * columns).clamp_(min=self.first.least).rsqrt_()
        return rows.rsqrt() * columns.rsqrt()


def stacks(parts: Sequence[FactoredUpdate]) -> list[StackedMatrices | FactoredUpdate]:
    """Return the steps of matrices of one shape in stacks of at most ``STACK`` elements; one matrix is no stack."""
    most = STACK // parts[0].elements
    groups = [parts[start : start + most] for start in range(0, len(parts), most)]
    return [StackedMatrices(group) if len(group) > 1 else group[0] for group in groups]
