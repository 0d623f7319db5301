"""The frozen weights of a run under LoRA: ``base.safetensors`` in its folder, once, for all its checkpoints.

So a run's folder needs no other checkpoint, whose name in a stranger's folder nobody would follow.
"""

from pathlib import Path

import torch

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


@torch.no_grad()
def load_base(folder: Path, metadata: RunMetadata, model: Backbone) -> None:
    """Give a run's model the frozen weights of its folder, if it has any. Errors: a UserError where they do not fit."""
    if not isinstance(model, ForeignBackbone) or not model.frozen:
        return
    path = folder / BASE
    if not path.is_file():
        raise UserError(f"{path}: the frozen weights of this run are missing; {AGAIN}")
    check_files(folder, metadata, BASE)
    tensors = read_tensors(path)
    for name in model.frozen:
        parameter = model.inner.get_parameter(name)
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise UserError(f"{path}: '{name}' is missing or has another shape; {AGAIN}")
        parameter.copy_(tensors[name])
