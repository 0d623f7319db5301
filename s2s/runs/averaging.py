"""Averages of weights: a moving one over the steps of a run, and one over its last checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import get_ema_multi_avg_fn

from s2s.errors import UserError
from s2s.runs import checkpoints


class MovingAverage:
    """The exponential moving average e of a module's parameters w: e <- d e + (1 - d) w after each step.

    d is min(decay, step / (step + 9)), so that a short run forgets where it started, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=...)``. Every process computes the same one from the same weights.
    """

    def __init__(self, module: Module, decay: float, saved: dict[str, Tensor] | None = None) -> None:
        self.module, self.decay = module, decay
        self.parameters = dict(module.named_parameters())
        found = {name: parameter if saved is None else saved[name] for name, parameter in self.parameters.items()}
        self.tensors = {
            name: found[name].detach().to(place.device, copy=True) for name, place in self.parameters.items()
        }

    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        average = get_ema_multi_avg_fn(min(self.decay, step / (step + 9)))
        average(list(self.tensors.values()), [parameter.detach() for parameter in self.parameters.values()], step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the module have the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data

    def state(self) -> dict[str, Tensor]:
        """The module's state with the averaged weights."""
        with self.in_place():
            return {name: tensor.detach() for name, tensor in self.module.state_dict().items()}


def average(run: Path, last: int) -> tuple[dict[str, Tensor], list[int]]:
    """The mean of the weights of a run's newest checkpoints, and their steps.

    Of their moving averages, where they have them; computed in float64. Errors: a UserError where fewer are kept.
    """
    folders = checkpoints.whole(run)[-last:]
    if len(folders) < last:
        raise UserError(
            f"run '{run}': {len(folders)} whole checkpoints are kept, not {last}; run.keep says how many stay"
        )
    total: dict[str, Tensor] = {}
    for folder in folders:
        for name, tensor in checkpoints.read_weights(folder).items():
            total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + tensor.double()
    kinds = {name: tensor.dtype for name, tensor in checkpoints.read_weights(folders[-1]).items()}
    return {name: (tensor / last).to(kinds[name]) for name, tensor in total.items()}, [
        checkpoints.step_of(folder) for folder in folders
    ]


def save(run: Path, weights: dict[str, Tensor], steps: list[int]) -> Path:
    """Keep an average as the run's checkpoint "average"."""
    return checkpoints.save_weights(run, "average", steps[-1], weights)
