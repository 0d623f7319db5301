"""The frozen weights of a run under LoRA: ``base.safetensors`` in its folder, once, for all its checkpoints.

So a run's folder needs no other checkpoint, whose name in a stranger's folder nobody would follow.
"""

from pathlib import Path

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.files.folders import AGAIN
from s2s.model.backbone import Backbone
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.runs.metadata import BASE, RunMetadata, check_files
from s2s.runs.weight_files import read_tensors, save_tensors


def save_base(folder: Path, model: Backbone) -> None:
    """Write the frozen weights of a new run, if it has any."""
    if isinstance(model, ForeignBackbone) and model.frozen:
        frozen = {name: model.inner.get_parameter(name) for name in model.frozen}
        save_tensors(folder / BASE, frozen, 0)


def read_base(folder: Path, metadata: RunMetadata, model: ForeignBackbone) -> dict[str, Tensor]:
    """Return the frozen weights of a run's folder by their names. Errors: a UserError where they do not fit."""
    path = folder / BASE
    if not path.is_file():
        raise UserError(f"{path}: the frozen weights of this run are missing; {AGAIN}")
    check_files(folder, metadata, BASE)
    tensors = read_tensors(path)
    for name in model.frozen:
        if name not in tensors or tensors[name].shape != model.inner.get_parameter(name).shape:
            raise UserError(f"{path}: '{name}' is missing or has another shape; {AGAIN}")
    return tensors


@torch.no_grad()
def load_base(folder: Path, metadata: RunMetadata, model: Backbone) -> None:
    """Give a run's model the frozen weights of its folder, if it has any. Errors: a UserError where they do not fit."""
    if isinstance(model, ForeignBackbone) and model.frozen:
        tensors = read_base(folder, metadata, model)
        for name in model.frozen:
            model.inner.get_parameter(name).copy_(tensors[name])
