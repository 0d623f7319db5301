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
    """The header of a file of weights: its step, and its run's ``RunMetadata.identity``, which early files lack."""

    step: int
    run: str | None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], step: int, run: str | None = None) -> None:
    """Write tensors, of whatever device and order in memory, with their step and the identity of their run."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {STEP: str(step), "format": "pt"} | ({} if run is None else {RUN: run})
    save_file(whole, path, metadata=metadata)


def read_header(path: Path) -> Header:
    """Return the header of a file of weights."""
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
    """Refuse tensors that do not fit a module exactly in names, shapes and types, and parameters that are not finite.

    The module's tensors may be without values, on the device "meta".
    """
    expected = module.state_dict()
    names = sorted(expected.keys() | tensors.keys())
    wrong = next((text for name in names if (text := _misfit(name, expected.get(name), tensors.get(name)))), None)
    if wrong is None:
        broken = next(
            (name for name, _ in module.named_parameters() if name in tensors and not tensors[name].isfinite().all()),
            None,
        )
        wrong = None if broken is None else f"'{broken}' has values that are no numbers"
    if wrong is not None:
        raise UserError(f"{path}: {wrong}; the file is damaged or of another run: {AGAIN}")


def _misfit(name: str, expected: Tensor | None, tensor: Tensor | None) -> str | None:
    """Return why a tensor of a file does not fit the module's, or None if it does."""
    if tensor is None:
        return f"the tensor '{name}' is missing"
    if expected is None:
        return f"the tensor '{name}' is none of this run's model"
    shape, right = list(tensor.shape), list(expected.shape)
    if shape != right:
        return f"'{name}' has the shape {shape}, where run.json and recipe.yaml make {right}"
    return f"'{name}' is of {tensor.dtype}, not {expected.dtype}" if tensor.dtype != expected.dtype else None
