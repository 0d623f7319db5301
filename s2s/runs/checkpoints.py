"""Checkpoints: complete or absent, checked when read.

``checkpoints/step-00000400/`` holds ``weights.safetensors``, ``ema.safetensors`` where a run averages its weights,
``trainer.pt`` and ``manifest.json`` with the size and SHA-256 of each. It is written under another name, synced and
renamed. The last two stay, or as many as are to be kept, and the best one; the files ``last`` and ``best`` name them,
as ``s2s.files.pointers`` says. ``average-00000400/`` with the file ``average`` has weights alone.
"""

import shutil
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.errors import UserError, first_line
from s2s.files import pointers
from s2s.files.folders import AGAIN, damage, entry, recorded_hash, write_folder
from s2s.files.foreign import check_inside
from s2s.model.transformer import PrefixTransformer
from s2s.runs.metadata import WEIGHTS, check_weights, identity, read_metadata
from s2s.runs.weight_files import check_tensors, read_header, read_tensors, save_tensors

AVERAGE, TRAINER = "ema.safetensors", "trainer.pt"
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
    file: Path | None = None  # that the weights were read from


def save(run: Path, checkpoint: Checkpoint, keep: int = LAST) -> None:
    """Write a checkpoint, let ``last`` and ``best`` name it or theirs, and remove what is no longer needed.

    Errors: a UserError where it cannot be written; the checkpoints from before are whole then.
    """
    folder, of = run / "checkpoints", identity(run)

    def write(partial: Path) -> None:
        save_tensors(partial / WEIGHTS, checkpoint.weights, checkpoint.step, of)
        if checkpoint.ema is not None:
            save_tensors(partial / AVERAGE, checkpoint.ema, checkpoint.step, of)
        with (partial / TRAINER).open("wb") as file:  # whose errors, unlike torch.save's own, say what is wrong
            torch.save(_trainer(checkpoint), file)

    for path in folder.glob(".s2s-*.partial"):  # of a process that was killed while it wrote a name
        path.unlink()
    for path in _copies(folder):
        if not (own := folder / _name(step_of(path))).exists():
            path.rename(own)
    final = write_folder(folder / _name(checkpoint.step), write)
    pointers.point(folder / "last", final.name)
    if checkpoint.best is not None:
        pointers.point(folder / "best", _name(checkpoint.best.step))
    _prune(folder, checkpoint, keep)


def save_weights(run: Path, name: str, step: int, weights: dict[str, Tensor]) -> Path:
    """Keep weights that training does not go on from, under a name, in the place of those from before."""
    folder, of = run / "checkpoints", identity(run)
    final = write_folder(
        folder / f"{name}-{step:08d}", lambda partial: save_tensors(partial / WEIGHTS, weights, step, of)
    )
    pointers.point(folder / name, final.name)
    for path in folder.glob(f"{name}-*"):
        if path != final:
            shutil.rmtree(path)
    return final


def _trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    best = None if checkpoint.best is None else tuple(checkpoint.best)
    rest = {"step": checkpoint.step, "optimizer": checkpoint.optimizer, "best": best}
    return rest | {"scaler": checkpoint.scaler, "waited": checkpoint.waited}


def newest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if any, and a line for each damaged one that was passed over.

    A best one that is gone is told too: the next evaluation gives another.
    """
    folder = run / "checkpoints"
    found, damaged = _newest(folder)
    then = "using the one before it" if found else "there is no whole one before it, so training begins again"
    lines = [f"{path}: damaged ({reason}); {then}" for path, reason in damaged]
    if found is None:
        return None, lines
    checkpoint = _read(*found)
    if (best := checkpoint.best) and best.step not in {step_of(path) for path in _folders(folder)}:
        gone = f"{folder / _name(best.step)}: the best checkpoint is gone; the next evaluation counts as the best"
        return checkpoint._replace(best=None, waited=0), [*lines, gone]
    return checkpoint, lines


def _newest(folder: Path) -> tuple[tuple[Path, dict[str, Any]] | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint's folder and its trainer, if there is one, and the damaged folders after it."""
    damaged: list[tuple[Path, str]] = []
    for path in reversed(_folders(folder)):
        if (found := _damage(path)) is None:
            try:
                return (path, _read_trainer(path)), damaged
            except ValueError as error:
                found = f"{TRAINER} cannot be read: {first_line(error)}"
        damaged.append((path, found))
    return None, damaged


def whole(run: Path) -> list[Path]:
    """The folders of a run's whole checkpoints, oldest first."""
    return [folder for folder in _folders(run / "checkpoints") if _damage(folder) is None]


class Stored(NamedTuple):
    """Weights as they are read, and their file."""

    step: int
    tensors: dict[str, Tensor]
    file: Path


def stored(run: Path, name: str | None = None) -> Stored:
    """The weights of the checkpoint with a name ("best", "last", "average"); without one best, else last.

    The moving average, where the checkpoint has one: it is what was evaluated. An exported run has one set of weights.
    """
    if is_exported(run):
        if name is not None:
            raise UserError(
                f"{run / WEIGHTS}: an exported run has one set of weights and no {name} checkpoint; leave it out"
            )
        return Stored(read_header(run / WEIGHTS).step, read_tensors(run / WEIGHTS), run / WEIGHTS)
    folder = _named(run, name)
    if (found := _damage(folder)) is not None:
        raise UserError(f"{folder}: damaged ({found}); {AGAIN}, or ask for another checkpoint")
    file = _weights_of(folder)
    return Stored(step_of(folder), read_tensors(file), file)


def weights(run: Path, name: str | None = None) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of the checkpoint with a name, as ``stored`` finds it."""
    found = stored(run, name)
    return found.step, found.tensors


def is_exported(run: Path) -> bool:
    """Whether a folder holds a run's weights without its checkpoints, as ``s2s.runs.export`` writes it."""
    return (run / WEIGHTS).is_file() and not (run / "checkpoints").is_dir()


def fingerprint(run: Path, name: str | None = None) -> str:
    """The SHA-256 of the weights that ``weights`` reads, as the checkpoint's manifest has it."""
    if is_exported(run):
        return str(entry(run / WEIGHTS)["sha256"])
    return recorded_hash(_weights_of(_named(run, name)))


def _named(run: Path, name: str | None) -> Path:
    folder = run / "checkpoints"
    names = (name,) if name else ("best", "last")
    found = (pointers.named(folder / each) or _implied(folder, each) for each in names)
    target = next((path for path in found if path is not None), None)
    if target is None:
        raise UserError(f"run '{run}': no {' or '.join(names)} checkpoint yet")
    return target


def _implied(folder: Path, name: str) -> Path | None:
    """The checkpoint that a missing name stood for: uploads and archives leave links out."""
    if name == "average":
        return next(iter(sorted(folder.glob("average-*[0-9]"), reverse=True)), None)
    if (found := _newest(folder)[0]) is None:
        return None
    last, trainer = found
    if name == "last":
        return last
    place = None if trainer["best"] is None else folder / _name(trainer["best"][0])
    return place if place is not None and place.is_dir() else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a whole checkpoint, averaged over steps where it has them so."""
    return read_tensors(_weights_of(folder))


def _weights_of(folder: Path) -> Path:
    averaged = folder / AVERAGE
    return averaged if averaged.exists() else folder / WEIGHTS


def step_of_link(run: Path, name: str) -> int | None:
    """The step of the checkpoint with a name, or None where there is none."""
    try:
        target = pointers.named(run / "checkpoints" / name)
    except UserError:  # it names nothing, and is written again
        return None
    return None if target is None else step_of(target)


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder, as its name has it; a copy of a link has it within."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else read_header(folder / WEIGHTS).step


def _read(folder: Path, trainer: dict[str, Any]) -> Checkpoint:
    averaged = read_tensors(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    best = None if trainer["best"] is None else Best(*trainer["best"])
    rest = trainer["optimizer"], best, averaged, trainer.get("scaler"), trainer.get("waited", 0)
    return Checkpoint(trainer["step"], read_tensors(folder / WEIGHTS), *rest, folder / WEIGHTS)


def _read_trainer(folder: Path) -> dict[str, Any]:
    """Errors: a ValueError for what no trainer has written, of whatever hash."""
    try:
        trainer = torch.load(folder / TRAINER, map_location="cpu", weights_only=True)
        _check_trainer(trainer, step_of(folder))
    except (OSError, RuntimeError, AttributeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
        raise ValueError(first_line(error)) from error
    return dict(trainer)


def _check_trainer(trainer: Any, step: int) -> None:
    """Raise a ValueError for values that are not those of a trainer after so many steps: a hash vouches for no type."""
    if not isinstance(trainer, dict) or not {"step", "optimizer", "best"} <= trainer.keys():
        raise ValueError("it has no step, optimizer and best")
    if type(trainer["step"]) is not int or trainer["step"] != step:
        raise ValueError(f"its step is {str(trainer['step'])[:40]}, the folder's {step}")
    if not isinstance(trainer["optimizer"], dict):
        raise ValueError("its optimizer is no state of one")
    for number, name in _not_finite(trainer["optimizer"].get("state")):
        raise ValueError(f"{name} of parameter {number} of its optimizer is not finite")
    if not isinstance(trainer.get("scaler"), dict | None):
        raise ValueError("its scaler is no state of one")
    waited = trainer.get("waited", 0)
    if type(waited) is not int or waited < 0:
        raise ValueError(f"its waited is {str(waited)[:40]!r}")
    best = trainer["best"]
    if best is not None and not (
        isinstance(best, tuple | list)
        and len(best) == 2
        and type(best[0]) is int
        and 0 <= best[0] <= step
        and type(best[1]) in (int, float)
        and not isnan(best[1])
    ):
        raise ValueError(f"its best is {str(best)[:40]}, and not a step up to {step} with a score")


def _not_finite(states: Any) -> Iterator[tuple[Any, Any]]:
    """Yield number and name of each of an optimizer's tensors with NaN or infinity: each later weight would be NaN."""
    for number, state in states.items() if isinstance(states, dict) else ():
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, Tensor) and not value.isfinite().all():
                yield number, name


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    return damage(folder, {WEIGHTS} if folder.name.startswith("average") else {WEIGHTS, TRAINER})


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> list[Path]:
    """The folders of checkpoints, oldest first; a copy of a link counts where its own folder is not there."""
    own = [path for path in folder.glob("step-*") if path.is_dir() and pointers.NAME.fullmatch(path.name)]
    steps = {step_of(path): path for path in own}
    return [path for _, path in sorted(({step_of(path): path for path in _copies(folder)} | steps).items())]


def _copies(folder: Path) -> list[Path]:
    """The whole folders in the place of ``last`` and ``best``, as copies of older runs have them."""
    copies = (folder / name for name in ("last", "best") if pointers.is_copy(folder / name))
    return [path for path in copies if _damage(path) is None]


def _prune(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Keep this checkpoint, the ones before it as asked and the best; later ones can only be damaged."""
    name = _name(checkpoint.step)
    kept = set([path.name for path in _folders(folder) if path.name <= name][-keep:])
    if checkpoint.best is not None:
        kept.add(_name(checkpoint.best.step))
    for path in _folders(folder):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)  # Windows removes no file that is open; the next save tries again


def load_model(folder: str) -> PrefixTransformer:
    """Load the best weights of a run's model, frozen, for a mitigation that reads another run.

    Errors: an OSError where there is no run, a UserError where its files are damaged or lead out of the folder.
    """
    path = Path(folder)
    check_inside(path)
    metadata = read_metadata(path)
    weights = stored(path)
    check_weights(path, metadata, weights.file)
    prefix = "model."  # of the objective's parameters; the others belong to heads
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items() if name.startswith(prefix)}
    model = PrefixTransformer(metadata.architecture)
    check_tensors(model, tensors, weights.file)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)
