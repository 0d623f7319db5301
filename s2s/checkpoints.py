"""Checkpoints: complete or absent, checked when read.

``checkpoints/step-00000400/`` holds ``weights.safetensors``, ``ema.safetensors`` where a run averages its weights,
``trainer.pt`` and ``manifest.json`` with the size and SHA-256 of each. It is written under another name, synced and
renamed. The last two stay, or as many as are to be kept, and the best one; the links ``last`` and ``best`` point to
them. ``average-00000400/`` with the link ``average`` has weights alone.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from s2s.errors import UserError
from s2s.folders import damage, entry, recorded_hash, write_folder
from s2s.weight_files import read_exported, save_tensors

WEIGHTS, AVERAGE, TRAINER = "weights.safetensors", "ema.safetensors", "trainer.pt"
LAST = 2
"""How many of the newest checkpoints stay at least: if the newest turns out damaged, the one before it is used."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    value: float


class Checkpoint(NamedTuple):
    """The state after ``step`` updates."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: Best | None
    ema: dict[str, Tensor] | None = None  # the moving average of the weights
    scaler: dict[str, Any] | None = None  # of fp16's losses
    waited: int = 0  # evaluations since the best one


def save(run: Path, checkpoint: Checkpoint, keep: int = LAST) -> None:
    """Write a checkpoint, move the links and remove what is no longer needed.

    Errors: a UserError where it cannot be written; the checkpoints from before are whole then.
    """
    folder = run / "checkpoints"

    def write(partial: Path) -> None:
        save_tensors(partial / WEIGHTS, checkpoint.weights, checkpoint.step)
        if checkpoint.ema is not None:
            save_tensors(partial / AVERAGE, checkpoint.ema, checkpoint.step)
        with (partial / TRAINER).open("wb") as file:  # whose errors, unlike torch.save's own, say what is wrong
            torch.save(_trainer(checkpoint), file)

    final = write_folder(folder / _name(checkpoint.step), write)
    _link(folder / "last", final.name)
    if checkpoint.best is not None:
        _link(folder / "best", _name(checkpoint.best.step))
    _prune(folder, checkpoint, keep)


def save_weights(run: Path, link: str, step: int, weights: dict[str, Tensor]) -> Path:
    """Keep weights that training does not go on from, under the name of a link, in the place of those from before."""
    folder = run / "checkpoints"
    final = write_folder(folder / f"{link}-{step:08d}", lambda partial: save_tensors(partial / WEIGHTS, weights, step))
    _link(folder / link, final.name)
    for path in folder.glob(f"{link}-*"):
        if path != final:
            shutil.rmtree(path)
    return final


def _trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    best = None if checkpoint.best is None else tuple(checkpoint.best)
    rest = {"step": checkpoint.step, "optimizer": checkpoint.optimizer, "best": best}
    return rest | {"scaler": checkpoint.scaler, "waited": checkpoint.waited}


def newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if any, and a line for each damaged one that was passed over."""
    passed: list[str] = []
    for folder in reversed(_folders(run / "checkpoints")):
        if (found := _damage(folder)) is None:
            return _read(folder), passed
        passed.append(f"{folder}: damaged ({found}); using the one before it")
    return None, passed


def whole(run: Path) -> list[Path]:
    """The folders of a run's whole checkpoints, oldest first."""
    return [folder for folder in _folders(run / "checkpoints") if _damage(folder) is None]


def weights(run: Path, link: str | None = None) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of the checkpoint that a link names ("best", "last", "average"); without one best, else last.

    The moving average, where the checkpoint has one: it is what was evaluated.
    """
    if is_exported(run):
        return read_exported(run / WEIGHTS, link)
    target = _linked(run, link)
    if (found := _damage(target)) is not None:
        raise UserError(f"{target}: damaged ({found})")
    return step_of(target), read_weights(target)


def is_exported(run: Path) -> bool:
    """Whether a folder holds a run's weights without its checkpoints, as ``s2s.export`` writes it."""
    return (run / WEIGHTS).is_file() and not (run / "checkpoints").is_dir()


def fingerprint(run: Path, link: str | None = None) -> str:
    """The SHA-256 of the weights that ``weights`` reads, as the checkpoint's manifest has it."""
    if is_exported(run):
        return str(entry(run / WEIGHTS)["sha256"])
    return recorded_hash(_weights_of(_linked(run, link)))


def _linked(run: Path, link: str | None) -> Path:
    folder = run / "checkpoints"
    links = (link,) if link else ("best", "last")
    target = next((folder / name for name in links if (folder / name).exists()), None)
    if target is None:
        raise UserError(f"run '{run}': no {' or '.join(links)} checkpoint yet")
    return target.resolve()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a whole checkpoint, averaged over steps where it has them so."""
    return load_file(_weights_of(folder))


def _weights_of(folder: Path) -> Path:
    averaged = folder / AVERAGE
    return averaged if averaged.exists() else folder / WEIGHTS


def step_of_link(run: Path, link: str) -> int | None:
    """The step of the checkpoint that a link names, or None."""
    target = run / "checkpoints" / link
    return step_of(target.resolve()) if target.exists() else None


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(folder.name.rpartition("-")[2])


def _read(folder: Path) -> Checkpoint:
    trainer = torch.load(folder / TRAINER, map_location="cpu", weights_only=True)
    best = None if trainer["best"] is None else Best(*trainer["best"])
    averaged = load_file(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    rest = trainer["optimizer"], best, averaged, trainer.get("scaler"), trainer.get("waited", 0)
    return Checkpoint(trainer["step"], load_file(folder / WEIGHTS), *rest)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    return damage(folder, {WEIGHTS, TRAINER} if folder.name.startswith("step-") else {WEIGHTS})


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and not path.suffix)


def _link(link: Path, target: str) -> None:
    partial = link.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)


def _prune(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Keep this checkpoint, the ones before it as asked and the best; later ones can only be damaged."""
    name = _name(checkpoint.step)
    kept = set([path.name for path in _folders(folder) if path.name <= name][-keep:])
    if checkpoint.best is not None:
        kept.add(_name(checkpoint.best.step))
    for path in _folders(folder):
        if path.name not in kept:
            shutil.rmtree(path)
