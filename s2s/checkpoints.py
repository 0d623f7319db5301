"""Checkpoints: complete or absent, checked when read.

``checkpoints/step-00000400/`` holds ``weights.safetensors``, ``trainer.pt`` and ``manifest.json`` with the size and
SHA-256 of both. It is written under another name, synced and renamed. The last two stay, and the best one;
the links ``last`` and ``best`` point to them.
"""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2s.disk import sync_folder
from s2s.errors import UserError

WEIGHTS, TRAINER, MANIFEST = "weights.safetensors", "trainer.pt", "manifest.json"
LAST = 2
"""How many of the newest checkpoints stay: if the newest turns out damaged, the one before it is used."""


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


def save(run: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, move the links and remove what is no longer needed."""
    folder = run / "checkpoints"
    final = folder / _name(checkpoint.step)
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(partial, checkpoint)
    shutil.rmtree(final, ignore_errors=True)  # there only if it was damaged, or is being computed again
    partial.rename(final)
    sync_folder(folder)
    _link(folder / "last", final.name)
    if checkpoint.best is not None:
        _link(folder / "best", _name(checkpoint.best.step))
    _prune(folder, checkpoint)


def _write(partial: Path, checkpoint: Checkpoint) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    save_file(tensors, partial / WEIGHTS, metadata={"step": str(checkpoint.step)})
    best = None if checkpoint.best is None else tuple(checkpoint.best)
    torch.save({"step": checkpoint.step, "optimizer": checkpoint.optimizer, "best": best}, partial / TRAINER)
    manifest = {name: _entry(partial / name) for name in (WEIGHTS, TRAINER)}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for name in (WEIGHTS, TRAINER, MANIFEST):
        with (partial / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(partial)


def newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if any, and a line for each damaged one that was passed over."""
    passed: list[str] = []
    for folder in reversed(_folders(run / "checkpoints")):
        if (damage := _damage(folder)) is None:
            return _read(folder), passed
        passed.append(f"{folder}: damaged ({damage}); using the one before it")
    return None, passed


def weights(run: Path, link: str | None = None) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of the checkpoint that a link names ("best", "last"); without one the best, else the last."""
    if is_exported(run):
        return _exported(run / WEIGHTS, link)
    target = _linked(run, link)
    if (damage := _damage(target)) is not None:
        raise UserError(f"{target}: damaged ({damage})")
    return int(target.name.removeprefix("step-")), load_file(target / WEIGHTS)


def is_exported(run: Path) -> bool:
    """Whether a folder holds a run's weights without its checkpoints, as ``s2s.export`` writes it."""
    return (run / WEIGHTS).is_file() and not (run / "checkpoints").is_dir()


def fingerprint(run: Path, link: str | None = None) -> str:
    """The SHA-256 of the weights that ``weights`` reads, as the checkpoint's manifest has it."""
    if is_exported(run):
        return str(_entry(run / WEIGHTS)["sha256"])
    manifest = json.loads((_linked(run, link) / MANIFEST).read_text())
    return str(manifest[WEIGHTS]["sha256"])


def _linked(run: Path, link: str | None) -> Path:
    folder = run / "checkpoints"
    links = (link,) if link else ("best", "last")
    target = next((folder / name for name in links if (folder / name).exists()), None)
    if target is None:
        raise UserError(f"run '{run}': no {' or '.join(links)} checkpoint yet")
    return target.resolve()


def _exported(path: Path, link: str | None) -> tuple[int, dict[str, Tensor]]:
    """The weights that an exported run has instead of checkpoints."""
    if link is not None:
        raise UserError(f"{path}: an exported run has one set of weights and no {link} checkpoint; leave it out")
    try:
        with safe_open(path, "pt") as file:
            step = int((file.metadata() or {}).get("step", 0))
        return step, load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from error


def _read(folder: Path) -> Checkpoint:
    trainer = torch.load(folder / TRAINER, map_location="cpu", weights_only=True)
    best = None if trainer["best"] is None else Best(*trainer["best"])
    return Checkpoint(trainer["step"], load_file(folder / WEIGHTS), trainer["optimizer"], best)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        broken = [name for name in (WEIGHTS, TRAINER) if _entry(folder / name) != manifest[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(broken)} changed since it was written" if broken else None


def _entry(path: Path) -> dict[str, Any]:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and not path.suffix)


def _link(link: Path, target: str) -> None:
    partial = link.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)


def _prune(folder: Path, checkpoint: Checkpoint) -> None:
    """Keep this checkpoint, the one before it and the best; later ones can only be damaged."""
    name = _name(checkpoint.step)
    kept = set([path.name for path in _folders(folder) if path.name <= name][-LAST:])
    if checkpoint.best is not None:
        kept.add(_name(checkpoint.best.step))
    for path in _folders(folder):
        if path.name not in kept:
            shutil.rmtree(path)
