"""Files of weights: safetensors, with the step in their metadata."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2s.errors import UserError


def save_tensors(path: Path, tensors: dict[str, Tensor], step: int) -> None:
    """Write tensors, of whatever device and order in memory."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"step": str(step)})


def read_exported(path: Path, link: str | None) -> tuple[int, dict[str, Tensor]]:
    """The weights that an exported run has instead of checkpoints."""
    if link is not None:
        raise UserError(f"{path}: an exported run has one set of weights and no {link} checkpoint; leave it out")
    try:
        with safe_open(path, "pt") as file:
            step = int((file.metadata() or {}).get("step", 0))
        return step, load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
