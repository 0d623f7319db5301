"""The mean of the weights of a run's last checkpoints; ``s2s.training.ema`` has the moving average over steps."""

from pathlib import Path

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.runs import checkpoints


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
