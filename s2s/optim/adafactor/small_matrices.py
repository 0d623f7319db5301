"""AdaFactor's step of many small parameters at once: their elements lie end to end, so that one operation meets all."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from s2s.optim.adafactor.factored import FactoredUpdate
from s2s.optim.adafactor.large_matrices import Matrices, walkable
from s2s.optim.adafactor.phases import Stage
from s2s.optim.adafactor.unfactored import Update

SMALL = 1 << 16
"""Up to how many elements a parameter counts as small: copying it costs less than an operation of its own."""


class Bundle:
    """The steps of parameters with the same options, type and number of steps so far, all of whose moments are kept."""

    division = None

    def __init__(self, parts: Sequence[Update]) -> None:
        self.parts, self.first = parts, parts[0]
        self.names = [name for part in parts for name in part.names]
        self.sizes = [part.elements for part in parts]
        self.gradient = self._flat(part.gradient for part in parts)

    def measure(self) -> list[Tensor]:
        """The sums of the gradients' squares, in which anything not finite shows."""
        self.gradient_squares = self._square_sums(self.gradient)
        return [self.gradient_squares]

    def remember(self) -> list[Tensor]:
        """Count the step and mix the gradients into the second moments."""
        for part in self.parts:
            part.count()
        kept = [part.all_moments() for part in self.parts]
        self.moments = self._flat(kept)
        self.first.mix(self.moments, self.gradient.square())
        self._store(self.moments, kept)
        return []

    def compare(self) -> list[Tensor]:
        """The sums of squares of updates and parameters."""
        self.update = self.gradient * self.first.inverse_root(self.moments)
        parameters = self._flat(part.parameter for part in self.parts)
        self.squares = torch.stack([self._square_sums(self.update), self._square_sums(parameters)], dim=1)
        return [self.squares]

    def apply(self, squares: list[list[float]]) -> None:
        """Change the momenta and the parameters, given the sums of ``compare``."""
        plans = [part.plan(*sums) for part, sums in zip(self.parts, squares, strict=True)]
        parameters = [part.parameter for part in self.parts]
        if any(plan.keep != 1 for plan in plans):
            torch._foreach_mul_(parameters, [plan.keep for plan in plans])
        steps = self.update.mul_(self._spread([plan.factor for plan in plans]))
        if beta1 := self.first.options["beta1"]:
            momenta = [part.momentum() for part in self.parts]
            steps = self._flat(momenta).to(self.update.dtype).mul_(beta1).add_(steps, alpha=1 - beta1)
            self._store(steps, momenta)
            steps.mul_(self._spread([plan.size for plan in plans]))
        torch._foreach_sub_(parameters, self._shaped(steps))

    def _flat(self, tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors])

    def _shaped(self, flat: Tensor) -> list[Tensor]:
        return [piece.view(part.shape) for piece, part in zip(flat.split(self.sizes), self.parts, strict=True)]

    def _store(self, flat: Tensor, places: list[Tensor]) -> None:
        torch._foreach_copy_(places, self._shaped(flat))

    def _square_sums(self, flat: Tensor) -> Tensor:
        return torch.stack(torch._foreach_norm(flat.split(self.sizes))).square_()

    def _spread(self, values: list[float]) -> Tensor:
        """A number for each parameter, as one for each element."""
        sizes = torch.tensor(self.sizes, device=self.gradient.device)
        return self.gradient.new_tensor(values).repeat_interleave(sizes, output_size=len(self.gradient))


def bundled(updates: Iterable[Update]) -> list[Stage]:
    """The same updates, those that can be made together in one stage."""
    alone, together = list[Stage](), defaultdict[tuple[Any, ...], list[Any]](list)
    for update in updates:
        build = Matrices if isinstance(update, FactoredUpdate) and walkable(update) else Bundle
        if build is Matrices or small(update):
            place = update.parameter.dtype, update.parameter.device, update.state.get("step", 0)
            together[build, id(update.options), *place].append(update)
        else:
            alone.append(update)
    return [*(build(parts) for (build, *_), parts in together.items()), *alone]


def small(update: Update) -> bool:
    """Whether a parameter is in one piece and small, its moments are all kept, and their type is its own."""
    whole = type(update) is Update and update.division is None and update.elements <= SMALL
    return whole and update.parameter.dtype == update.gradient.dtype == update.dtype
