"""The parts of AdaFactor's step, between which processes add up what each of them holds.

``measure`` reads the gradient and changes nothing, ``remember`` mixes it into the second moments, ``compare`` sums
the squares of update and parameter, ``apply`` changes the parameter. The tensors that the first three return must be
summed over the parameter's processes before the next is called.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from s2s.optim.adafactor.dtensor import Division, add_over_processes


class Plan(NamedTuple):
    """What becomes of a parameter p with scaled gradient u: p := keep p - factor u.

    With momentum m := beta1 m + (1 - beta1) factor u and p := keep p - size m.
    """

    keep: float
    factor: float
    size: float


class Stage(Protocol):
    """The parts of a step, of one parameter or of several."""

    names: list[str]
    gradient: Tensor
    gradient_squares: Tensor
    squares: Tensor

    @property
    def division(self) -> Division | None:
        """How processes divide it."""

    def measure(self) -> list[Tensor]:
        """Read the gradient."""

    def remember(self) -> list[Tensor]:
        """Mix it into the second moments."""

    def compare(self) -> list[Tensor]:
        """Sum the squares of update and parameter."""

    def apply(self, squares: Any) -> None:
        """Change the parameter, given these sums as numbers."""


def batches(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """On a CPU one at a time, while its tensors are in the cache; with messages or a queue all at once."""
    alone = [stage.division is None and stage.gradient.device.type == "cpu" for stage in stages]
    yield from ([stage] for stage, here in zip(stages, alone, strict=True) if here)
    yield [stage for stage, here in zip(stages, alone, strict=True) if not here]


def measure(stages: Sequence[Stage]) -> list[str]:
    """Read the gradients; returns the names of parameters whose gradients are not finite."""
    add_over_processes([(part, stage.division) for stage in stages for part in stage.measure()])
    squares = numbers([stage.gradient_squares for stage in stages])
    found = [each for some in squares for each in (some if isinstance(some, list) else [some])]
    names = [name for stage in stages for name in stage.names]
    return [name for name, square in zip(names, found, strict=True) if not math.isfinite(square)]


def finish(stages: Sequence[Stage]) -> None:
    """All that comes after the gradients were found finite."""
    add_over_processes([(part, stage.division) for stage in stages for part in stage.remember()])
    add_over_processes([(part, stage.division) for stage in stages for part in stage.compare()])
    for stage, squares in zip(stages, numbers([stage.squares for stage in stages]), strict=True):
        stage.apply(squares)


def numbers(tensors: Sequence[Tensor]) -> list[Any]:
    """Small tensors as numbers, nested as they are; an accelerator's queue is waited for once."""
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.tolist() for tensor in tensors]
    together = torch.cat([tensor.flatten().to(tensors[0]) for tensor in tensors]).cpu()
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).tolist() for part, tensor in zip(parts, tensors, strict=True)]
