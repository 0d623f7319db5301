"""The four phases of an AdaFactor step, between which processes add up their partial sums.

``measure`` reads the gradient and changes nothing, ``remember`` mixes it into the second moments, ``compare`` sums
the squares of update and parameter, ``apply`` changes the parameter. Each of the first three returns tensors that
must be summed over the processes that share the parameter before the next phase begins.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from s2s.optim.adafactor.dtensor import Division, add_over_processes


class Plan(NamedTuple):
    """The numbers of a step of parameter p with scaled gradient u: p := keep p - factor u.

    With momentum: m := beta1 m + (1 - beta1) factor u, then p := keep p - size m.
    """

    keep: float
    factor: float
    size: float


class Stage(Protocol):
    """The step of one parameter, or of several together."""

    names: list[str]
    gradient: Tensor
    gradient_squares: Tensor
    squares: Tensor

    @property
    def division(self) -> Division | None:
        """How the parameter is divided among processes."""

    def measure(self) -> list[Tensor]:
        """Read the gradient."""

    def remember(self) -> list[Tensor]:
        """Mix the gradient into the second moments."""

    def compare(self) -> list[Tensor]:
        """Sum the squares of update and parameter."""

    def apply(self, squares: Any) -> None:
        """Change the parameter, given the sums of ``compare`` as numbers."""


def batches(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Yield the stages to finish together.

    On a CPU that is one stage at a time, while its tensors are still in the cache. Stages with messages between
    processes or with an accelerator's queue are finished all at once, so that there is one wait for all of them.
    """
    single = [stage.division is None and stage.gradient.device.type == "cpu" for stage in stages]
    yield from ([stage] for stage, is_single in zip(stages, single, strict=True) if is_single)
    yield [stage for stage, is_single in zip(stages, single, strict=True) if not is_single]


def measure(stages: Sequence[Stage]) -> list[str]:
    """Read the gradients; return the names of parameters whose gradients are not finite."""
    # Summed before the check: processes that came to different verdicts would wait for each other forever.
    add_over_processes([(part, stage.division) for stage in stages for part in stage.measure()])
    squares = []
    for value in numbers([stage.gradient_squares for stage in stages]):  # a list for a stage of several parameters
        squares += value if isinstance(value, list) else [value]
    names = [name for stage in stages for name in stage.names]
    return [name for name, square in zip(names, squares, strict=True) if not math.isfinite(square)]


def finish(stages: Sequence[Stage]) -> None:
    """Run the phases after ``measure``."""
    add_over_processes([(part, stage.division) for stage in stages for part in stage.remember()])
    add_over_processes([(part, stage.division) for stage in stages for part in stage.compare()])
    for stage, squares in zip(stages, numbers([stage.squares for stage in stages]), strict=True):
        stage.apply(squares)


def numbers(tensors: Sequence[Tensor]) -> list[Any]:
    """Convert small tensors to (nested lists of) numbers, with one wait for an accelerator's queue."""
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.tolist() for tensor in tensors]
    together = torch.cat([tensor.flatten().to(tensors[0]) for tensor in tensors]).cpu()
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).tolist() for part, tensor in zip(parts, tensors, strict=True)]
