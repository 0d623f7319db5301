"""Files of weights: safetensors, with the step and the digest of their run in their metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Module

from s2s.errors import UserError
from s2s.files.folders import AGAIN

STEP, RUN = "step", "run"


class Header(NamedTuple):
    """What a file of weights says of itself: its step, and its run's ``Facts.identity`` unless it is of old."""

    step: int
    run: str | None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], step: int, run: str | None = None) -> None:
    """Write tensors, of whatever device and order in memory, with the step and the run that they are of."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {STEP: str(step), "format": "pt"} | ({} if run is None else {RUN: run})
    save_file(whole, path, metadata=metadata)


def read_header(path: Path) -> Header:
    """Return what a file of weights says of itself."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return Header(int(metadata.get(STEP, 0)), metadata.get(RUN))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}; {AGAIN})") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}; {AGAIN})") from error


def check_tensors(module: Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors of a file that are not exactly a module's own: by name, shape, type, and with finite parameters.

    The module's own may be without values, on the device "meta".
    """
    own = module.state_dict()
    names = sorted(own.keys() | tensors.keys())
    wrong = next((found for name in names if (found := _wrong(name, own.get(name), tensors.get(name)))), None)
    if wrong is None:
        broken = next((name for name, _ in module.named_parameters() if not tensors[name].isfinite().all()), None)
        wrong = None if broken is None else f"'{broken}' has values that are no numbers"
    if wrong is not None:
        raise UserError(f"{path}: {wrong}; the file is damaged or of another run: {AGAIN}")


def _wrong(name: str, own: Tensor | None, found: Tensor | None) -> str | None:
    if found is None:
        return f"the tensor '{name}' is missing"
    if own is None:
        return f"the tensor '{name}' is none of this run's model"
    if found.shape != own.shape:
        return f"'{name}' has the shape {list(found.shape)}, where run.json and recipe.yaml make {list(own.shape)}"
    return f"'{name}' is of {found.dtype}, not {own.dtype}" if found.dtype != own.dtype else None
