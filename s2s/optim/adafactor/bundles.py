"""AdaFactor's steps of several parameters at once.

``SmallParameters`` puts the elements of many small parameters end to end, so that one operation covers all of them;
``LargeMatrices`` walks matrices with the C functions of ``kernels``. On a GPU matrices of one shape are ``stacks``.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.optim.adafactor import kernels
from s2s.optim.adafactor.phases import Stage
from s2s.optim.adafactor.stacks import StackedMatrices, stacks
from s2s.optim.adafactor.updates import FactoredUpdate, Update

SMALL = 1 << 16
"""Largest number of elements of a small parameter: copying it costs less than an operation of its own."""


def bundled(updates: Iterable[Update]) -> list[Stage]:
    """Return the same updates, those that can be computed together as one stage."""
    single, together = list[Stage](), defaultdict[tuple[Any, ...], list[Any]](list)
    for update in updates:
        kind = next((kind for kind in (LargeMatrices, StackedMatrices, SmallParameters) if kind.suit(update)), None)
        if kind is None:
            single.append(update)
            continue
        # Parameters of one stage share their options and their number of steps, hence all mixing weights.
        key = id(update.options), update.parameter.dtype, update.parameter.device, update.state.get("step", 0)
        together[kind, *key, update.shape if kind is StackedMatrices else None].append(update)
    stages = list[Stage]()
    for (kind, *_), parts in together.items():
        stages += stacks(parts) if kind is StackedMatrices else [kind(parts)]
    return [*stages, *single]


class SmallParameters:
    """The steps of small parameters, each with a second moment for every element."""

    division = None

    def __init__(self, parts: Sequence[Update]) -> None:
        self.parts, self.first = parts, parts[0]
        self.names = [name for part in parts for name in part.names]
        self.sizes = [part.elements for part in parts]
        self.gradient = self._flat(part.gradient for part in parts)

    @staticmethod
    def suit(update: Update) -> bool:
        """Return whether a parameter is small and undivided, and its moments, all stored, have its own type."""
        # By exact type: a ``FactoredUpdate`` is an ``Update`` too, but stores no moment for each element.
        whole = type(update) is Update and update.division is None and update.elements <= SMALL
        return whole and update.parameter.dtype == update.gradient.dtype == update.dtype

    def measure(self) -> list[Tensor]:
        """Sum the squares of each gradient."""
        self.gradient_squares = self._square_sums(self.gradient)
        return [self.gradient_squares]

    def remember(self) -> list[Tensor]:
        """Count the step and mix the gradients into the second moments."""
        for part in self.parts:
            part.count()
        stored = [part.all_moments() for part in self.parts]
        self.moments = self._flat(stored)
        self.first.mix(self.moments, self.gradient.square())
        self._store(self.moments, stored)
        return []

    def compare(self) -> list[Tensor]:
        """Sum the squares of updates and parameters."""
        self.update = self.gradient * self.first.inverse_root(self.moments)
        parameters = self._flat(part.parameter for part in self.parts)
        self.squares = torch.stack([self._square_sums(self.update), self._square_sums(parameters)], dim=1)
        return [self.squares]

    def apply(self, squares: list[list[float]]) -> None:
        """Change the momenta and the parameters, given the sums of ``compare``."""
        plans = [part.plan(*sums) for part, sums in zip(self.parts, squares, strict=True)]
        parameters = [part.parameter for part in self.parts]
        # Without decay a pass over all parameters is saved.
        if any(plan.keep != 1 for plan in plans):
            torch._foreach_mul_(parameters, [plan.keep for plan in plans])
        steps = self._scaled(self.update, [plan.factor for plan in plans])
        if beta1 := self.first.options["beta1"]:
            momenta = [part.momentum() for part in self.parts]
            steps = self._flat(momenta).to(self.update.dtype).mul_(beta1).add_(steps, alpha=1 - beta1)
            self._store(steps, momenta)
            self._scaled(steps, [plan.size for plan in plans])
        torch._foreach_sub_(parameters, self._shaped(steps))

    def _flat(self, tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors])

    def _shaped(self, flat: Tensor) -> list[Tensor]:
        return [piece.view(part.shape) for piece, part in zip(flat.split(self.sizes), self.parts, strict=True)]

    def _store(self, flat: Tensor, targets: list[Tensor]) -> None:
        torch._foreach_copy_(targets, self._shaped(flat))

    def _square_sums(self, flat: Tensor) -> Tensor:
        return torch.stack(torch._foreach_norm(flat.split(self.sizes))).square_()

    def _scaled(self, flat: Tensor, factors: list[float]) -> Tensor:
        """Multiply in place the elements of each parameter by a number; an accelerator waits for no copy of it."""
        torch._foreach_mul_(self._shaped(flat), factors)
        return flat


class LargeMatrices:
    """The steps of large factored matrices without momentum, by ``kernels``."""

    division = None

    def __init__(self, parts: Sequence[FactoredUpdate]) -> None:
        self.parts, self.first = parts, parts[0]
        self.names = [name for part in parts for name in part.names]
        self.gradient = self.first.gradient
        # Empty: the phases read such a tensor of every stage, and this one sums its squares in ``apply``.
        self.squares = self.gradient.new_empty(0)

    @staticmethod
    def suit(update: Update) -> bool:
        """Return whether C functions exist for a parameter's options and can read its tensors."""
        if not isinstance(update, FactoredUpdate) or update.division is not None:
            return False
        # With eps1 = 0 a row's moving average may be too small for its inverse.
        plain = update.options["compiled"] and update.added > 0 and not update.options["beta1"]
        return plain and kernels.usable(update.gradient, update.parameter)

    def measure(self) -> list[Tensor]:
        """Sum the squares of each gradient by row and by column, and in all."""
        added, share, clips = self.first.added, self.first.share(later=1), self.first.options["clip_threshold"]
        sums = []
        for part in self.parts:
            # Before the first step there are no moving averages, and its share is 1: any number will do.
            means = part.state["rows"] if "rows" in part.state else part.gradient.new_zeros(part.gradient.shape[0])
            sums.append(kernels.row_and_column_sums(part.gradient, means, share, added, clips is not None))
        self.rows, self.columns = [total.rows for total in sums], [total.columns for total in sums]
        self.weighted = [total.weighted for total in sums]
        # Squares are not negative, so their 1-norm is their sum, for all matrices in one call.
        self.gradient_squares = torch.stack(torch._foreach_norm(self.rows, 1))
        return [self.gradient_squares]

    def remember(self) -> list[Tensor]:
        """Count the step, mix the means into rows and columns and replace both by their inverse roots."""
        for part in self.parts:
            part.count()
        heights, widths = ([float(part.gradient.shape[axis]) for part in self.parts] for axis in (0, 1))
        rows, columns = self._mixed("rows", self.rows, widths), self._mixed("columns", self.columns, heights)
        tiny = torch.finfo(torch.float32).tiny
        totals = torch.stack(torch._foreach_norm(rows, 1)).tolist()
        self.means = [max(total / height, tiny) for total, height in zip(totals, heights, strict=True)]
        self.rows = self._inverse_roots(torch._foreach_div(rows, self.means))
        self.columns = self._inverse_roots(columns)
        return []

    def compare(self) -> list[Tensor]:
        """Return nothing: ``apply`` compares each matrix right before it changes it, while it is in the cache."""
        return []

    def apply(self, squares: list[float]) -> None:  # noqa: ARG002
        """Change the parameters."""
        # From the last to the first: the gradients that were measured last are still in the cache.
        for at, part in reversed([*enumerate(self.parts)]):
            scaled = part.options["scale_parameter"]
            plan = part.plan(self._update_squares(at), kernels.square_sum(part.parameter) if scaled else 0.0)
            kernels.move(part.parameter, part.gradient, self.rows[at], self.columns[at], plan.keep, plan.factor)

    def _update_squares(self, at: int) -> float:
        """Sum g_ij^2 / (r_i c_j), where r_i is a row's moving average over their mean."""
        weighted = self.weighted[at]
        if weighted is None:
            return 0.0
        return self.means[at] * float(weighted.double() @ self.columns[at].double().square())

    def _mixed(self, name: str, sums: list[Tensor], lengths: list[float]) -> list[Tensor]:
        """Mix the means of sums into the state of that name, and return it."""
        stored = [
            part.stored(name, totals.shape, None, part.dtype) for part, totals in zip(self.parts, sums, strict=True)
        ]
        torch._foreach_div_(sums, lengths)
        torch._foreach_add_(sums, self.first.added)
        torch._foreach_lerp_(stored, sums, self.first.share())
        return stored

    def _inverse_roots(self, moments: Sequence[Tensor]) -> list[Tensor]:
        tiny = torch.finfo(torch.float32).tiny
        return list(torch._foreach_rsqrt(torch._foreach_clamp_min(list(moments), tiny)))
