"""Checkpoints: complete or absent, checked when read.

``checkpoints/step-00000400/`` holds ``weights.safetensors``, ``ema.safetensors`` where a run averages its weights,
``trainer.pt`` and ``manifest.json`` with the size and SHA-256 of each. It is written under another name, synced and
renamed. With ``run.checkpoint_format: sharded`` the tensors of all three are in the files of ``s2s.runs.shard_files``,
one for each process, and ``trainer.pt`` has the rest. The newest ``run.keep`` checkpoints and the best one stay; the
files ``last`` and ``best`` name two of them, as ``s2s.files.pointers`` says. ``average-00000400/``, which the file
``average`` names, has weights alone.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from math import isnan, prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s import vocabulary as vocabularies
from s2s.errors import UserError, first_line
from s2s.files import pointers
from s2s.files.atomic import begin_folder
from s2s.files.folders import AGAIN, damage, entry, recorded_hash, unwritable, write_folder
from s2s.files.foreign import check_inside
from s2s.machine.agreement import decided, failing_together, is_main
from s2s.mitigations.base import FrozenRun
from s2s.model.backbones import untrained
from s2s.runs import shard_files
from s2s.runs.base_weights import load_base
from s2s.runs.metadata import VOCABULARY, WEIGHTS, check_files, check_weights, identity, read_metadata
from s2s.runs.weight_files import check_tensors, read_header, read_tensors, save_tensors

AVERAGE, TRAINER = "ema.safetensors", "trainer.pt"
LAST = 2
"""The number of newest checkpoints that stay at least: if the newest is damaged, the one before it is used."""


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
    scaler: dict[str, Any] | None = None  # state of the scale of fp16's losses
    waited: int = 0  # evaluations since the best one
    file: Path | None = None  # from which the weights were read
    parts: Path | None = None  # the folder of a checkpoint in parts whose tensors are not read
    measured: dict[str, Any] | None = None  # of the model, ``Backbone.measured``, in a checkpoint in parts

    def without_tensors(self) -> "Checkpoint":
        """Return the part that other processes need; an empty average stands for one that is there."""
        return self._replace(weights={}, optimizer={}, ema=None if self.ema is None else {})


def save(run: Path, checkpoint: Checkpoint, keep: int = LAST) -> None:
    """Write a checkpoint, point ``last`` and ``best`` to theirs, and remove those that are no longer needed.

    Errors: a UserError where it cannot be written; the checkpoints from before are whole then.
    """
    run_identity = identity(run)

    def write(partial: Path) -> None:
        save_tensors(partial / WEIGHTS, checkpoint.weights, checkpoint.step, run_identity)
        if checkpoint.ema is not None:
            save_tensors(partial / AVERAGE, checkpoint.ema, checkpoint.step, run_identity)
        _save_trainer(partial, _trainer(checkpoint))

    _place(run / "checkpoints", checkpoint, keep, write)


def save_parts(run: Path, checkpoint: Checkpoint, buffers: Mapping[str, Tensor], keep: int = LAST) -> None:
    """Write a checkpoint as ``save`` does, each process its own parts of its tensors; all have to call it.

    ``buffers`` are those of the model that its weights do not have, such as tables of positions.
    """
    folder = run / "checkpoints"
    final = folder / _name(checkpoint.step)
    tensors, rest = shard_files.named(checkpoint.weights, buffers, checkpoint.ema, checkpoint.optimizer)
    trainer = _trainer(checkpoint._replace(optimizer=rest)) | {"measured": checkpoint.measured, "run": identity(run)}

    def begin() -> Path:
        with unwritable(final):
            return begin_folder(final)

    partial = decided(begin)
    with failing_together(), unwritable(final):
        entries = shard_files.write(partial, tensors)
    with failing_together():
        if is_main():
            _place(folder, checkpoint, keep, lambda partial: _save_trainer(partial, trainer), entries)


def _save_trainer(folder: Path, trainer: dict[str, Any]) -> None:
    # Opened here: given a path, torch.save raises errors that do not say what is wrong.
    with (folder / TRAINER).open("wb") as file:
        torch.save(trainer, file)


def _place(
    folder: Path,
    checkpoint: Checkpoint,
    keep: int,
    write: Callable[[Path], None],
    known: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint's folder, point ``last`` and ``best`` to theirs, and remove those that nobody needs."""
    for path in folder.glob(".s2s-*.partial"):  # of a process that was killed while it wrote a name
        path.unlink()
    # Earlier versions had links for "last" and "best", which some copies of a run turn into folders.
    for path in _copies(folder):
        if not (numbered := folder / _name(step_of(path))).exists():
            path.rename(numbered)
    final = write_folder(folder / _name(checkpoint.step), write, known)
    pointers.point(folder / "last", final.name)
    if checkpoint.best is not None:
        pointers.point(folder / "best", _name(checkpoint.best.step))
    _prune(folder, checkpoint, keep)


def average(run: Path, last: int) -> tuple[dict[str, Tensor], list[int]]:
    """Return the mean of the weights of a run's ``last`` newest checkpoints, and their steps.

    Of their moving averages, where they have them. Errors: a UserError where fewer whole checkpoints are kept.
    """
    folders = whole(run)[-last:]
    if len(folders) < last:
        raise UserError(
            f"run '{run}': {len(folders)} whole checkpoints are kept, not {last}; run.keep says how many stay"
        )
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for folder in folders:
        for name, tensor in _evaluated(folder).items():
            # Summed in float64, so that the order of the checkpoints does not matter to the rounded mean.
            total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + tensor.double()
            types[name] = tensor.dtype
    mean = {name: (tensor / last).to(types[name]) for name, tensor in total.items()}
    return mean, [step_of(folder) for folder in folders]


def save_average(run: Path, weights: dict[str, Tensor], steps: list[int]) -> Path:
    """Write the run's checkpoint "average" in place of the one from before; training never resumes from it."""
    folder, step, run_identity = run / "checkpoints", steps[-1], identity(run)
    final = write_folder(
        folder / f"average-{step:08d}", lambda partial: save_tensors(partial / WEIGHTS, weights, step, run_identity)
    )
    pointers.point(folder / "average", final.name)
    for path in folder.glob("average-*"):
        if path != final:
            shutil.rmtree(path)
    return final


def _trainer(checkpoint: Checkpoint) -> dict[str, Any]:
    best = None if checkpoint.best is None else tuple(checkpoint.best)
    rest = {"step": checkpoint.step, "optimizer": checkpoint.optimizer, "best": best}
    return rest | {"scaler": checkpoint.scaler, "waited": checkpoint.waited}


def newest(run: Path, in_parts: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, if any, and a line for each damaged one that was passed over.

    With ``in_parts`` the tensors of one in parts are left for all processes to read. Where the best checkpoint is gone,
    a line says so: the next evaluation counts as the best.
    """
    folder = run / "checkpoints"
    latest, damaged = _newest(folder)
    then = "using the one before it" if latest else "there is no whole one before it, so training begins again"
    lines = [f"{path}: damaged ({reason}); {then}" for path, reason in damaged]
    if latest is None:
        return None, lines
    if shard_files.parts(latest[0]):
        if latest[1].get("run") != identity(run):
            raise UserError(f"{latest[0]}: of another run than {run}: its shape, labels or vocabulary differ; {AGAIN}")
        checkpoint = _read_parts(*latest, in_parts)
    else:
        checkpoint = _read(*latest)
    if (best := checkpoint.best) and best.step not in {step_of(path) for path in _folders(folder)}:
        gone = f"{folder / _name(best.step)}: the best checkpoint is gone; the next evaluation counts as the best"
        return checkpoint._replace(best=None, waited=0), [*lines, gone]
    return checkpoint, lines


def _newest(folder: Path) -> tuple[tuple[Path, dict[str, Any]] | None, list[tuple[Path, str]]]:
    """Return folder and trainer of the newest whole checkpoint, if there is one, and the damaged folders after it."""
    damaged: list[tuple[Path, str]] = []
    for path in reversed(_folders(folder)):
        if (reason := _damage(path)) is None:
            try:
                return (path, _read_trainer(path)), damaged
            except ValueError as error:
                reason = f"{TRAINER} cannot be read: {first_line(error)}"
        damaged.append((path, reason))
    return None, damaged


def whole(run: Path) -> list[Path]:
    """Return the folders of a run's whole checkpoints, oldest first."""
    return [folder for folder in _folders(run / "checkpoints") if _damage(folder) is None]


class Stored(NamedTuple):
    """The weights of a checkpoint, its step, and the file that they were read from."""

    step: int
    tensors: dict[str, Tensor]
    file: Path


def stored(run: Path, name: str | None = None) -> Stored:
    """Read the weights of the checkpoint with a name ("best", "last", "average"); without a name of best, else last.

    Where the checkpoint has a moving average, it is read: evaluation scored that. An exported run has one set of
    weights.
    """
    if is_exported(run):
        if name is not None:
            raise UserError(
                f"{run / WEIGHTS}: an exported run has one set of weights and no {name} checkpoint; leave it out"
            )
        return Stored(read_header(run / WEIGHTS).step, read_tensors(run / WEIGHTS), run / WEIGHTS)
    folder = _named(run, name)
    if (reason := _damage(folder)) is not None:
        raise UserError(f"{folder}: damaged ({reason}); {AGAIN}, or ask for another checkpoint")
    return Stored(step_of(folder), _evaluated(folder), _weights_of(folder))


def is_exported(run: Path) -> bool:
    """Say whether a folder holds a run's weights without its checkpoints, as ``s2s.runs.export`` writes it."""
    return (run / WEIGHTS).is_file() and not (run / "checkpoints").is_dir()


def fingerprint(run: Path, name: str | None = None) -> str:
    """Return the SHA-256 of the weights that ``stored`` reads, as the checkpoint's manifest has it."""
    if is_exported(run):
        return str(entry(run / WEIGHTS)["sha256"])
    folder = _named(run, name)
    if not (files := shard_files.parts(folder)):
        return recorded_hash(_weights_of(folder))
    return sha256("".join(map(recorded_hash, files)).encode()).hexdigest()


def _named(run: Path, name: str | None) -> Path:
    folder = run / "checkpoints"
    names = (name,) if name else ("best", "last")
    for pointer in names:
        if (target := pointers.named(folder / pointer) or _implied(folder, pointer)) is not None:
            return target
    raise UserError(f"run '{run}': no {' or '.join(names)} checkpoint yet")


def _implied(folder: Path, name: str) -> Path | None:
    """Return the checkpoint that a missing pointer named: uploads and archives leave the links of earlier runs out."""
    if name == "average":
        return next(iter(sorted(folder.glob("average-*[0-9]"), reverse=True)), None)
    if (newest_whole := _newest(folder)[0]) is None:
        return None
    last, trainer = newest_whole
    if name == "last":
        return last
    best = None if trainer["best"] is None else folder / _name(trainer["best"][0])
    return best if best is not None and best.is_dir() else None


def _weights_of(folder: Path) -> Path:
    """Return the file of a checkpoint's moving average where it has one, else of its weights, or of its first part."""
    if files := shard_files.parts(folder):
        return files[0]
    averaged = folder / AVERAGE
    return averaged if averaged.exists() else folder / WEIGHTS


def _evaluated(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint that evaluation scored: its moving average where it has one."""
    if not shard_files.parts(folder):
        return read_tensors(_weights_of(folder))
    return shard_files.read_whole(folder, shard_files.AVERAGE) or shard_files.read_whole(folder, shard_files.WEIGHTS)


def trainer_bytes(run: Path) -> int:
    """Return the size of the optimizer's state, and of what little is with it, in the last checkpoint."""
    folder = _named(run, "last")
    size = (folder / TRAINER).stat().st_size
    # Of a checkpoint in parts, that file has only the numbers; the tensors are among the parts.
    shapes = shard_files.shapes(folder) if shard_files.parts(folder) else {}
    moments = [shape for name, shape in shapes.items() if name.startswith(shard_files.OPTIMIZER)]
    return size + sum(prod(shape) * dtype.itemsize for shape, dtype in moments)


def step_of_link(run: Path, name: str) -> int | None:
    """Return the step of the checkpoint with a name, or None where there is none."""
    try:
        target = pointers.named(run / "checkpoints" / name)
    except UserError:  # a pointer that names nothing is written again
        return None
    return None if target is None else step_of(target)


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder, from its name or, in a copy of a link, from its weights."""
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else read_header(folder / WEIGHTS).step


def _read(folder: Path, trainer: dict[str, Any]) -> Checkpoint:
    averaged = read_tensors(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    best = None if trainer["best"] is None else Best(*trainer["best"])
    rest = trainer["optimizer"], best, averaged, trainer.get("scaler"), trainer.get("waited", 0)
    return Checkpoint(trainer["step"], read_tensors(folder / WEIGHTS), *rest, folder / WEIGHTS)


def _read_parts(folder: Path, trainer: dict[str, Any], in_parts: bool) -> Checkpoint:
    best = None if trainer["best"] is None else Best(*trainer["best"])
    file, measured = shard_files.parts(folder)[0], trainer.get("measured")
    averaged: dict[str, Tensor] | None = (
        {} if any(name.startswith(shard_files.AVERAGE) for name in shard_files.shapes(folder)) else None
    )
    checkpoint = Checkpoint(trainer["step"], {}, trainer["optimizer"], best, averaged, trainer.get("scaler"))
    checkpoint = checkpoint._replace(waited=trainer.get("waited", 0), file=file, measured=measured)
    if in_parts:
        return checkpoint._replace(parts=folder)
    moments = shard_files.read_whole(folder, shard_files.OPTIMIZER)
    return checkpoint._replace(
        weights=shard_files.read_whole(folder, shard_files.WEIGHTS),
        ema=None if averaged is None else shard_files.read_whole(folder, shard_files.AVERAGE),
        optimizer=shard_files.with_moments(trainer["optimizer"], moments),
    )


def _read_trainer(folder: Path) -> dict[str, Any]:
    """Read the state of training. Errors: a ValueError for a file that training has not written, whatever its hash."""
    try:
        trainer = torch.load(folder / TRAINER, map_location="cpu", weights_only=True)
        _check_trainer(trainer, step_of(folder))
    except (OSError, RuntimeError, AttributeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
        raise ValueError(first_line(error)) from error
    return dict(trainer)


def _check_trainer(trainer: Any, step: int) -> None:
    """Raise a ValueError for values that training cannot have after ``step`` steps: a hash vouches for no type."""
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
    """Return the damage to a checkpoint, as text, or None if it is whole."""
    needed = {path.name for path in shard_files.parts(folder)} or {WEIGHTS}
    return damage(folder, needed if folder.name.startswith("average") else {*needed, TRAINER})


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, oldest first; a copy of a link counts where the folder itself is missing."""
    numbered = [path for path in folder.glob("step-*") if path.is_dir() and pointers.NAME.fullmatch(path.name)]
    by_step = {step_of(path): path for path in [*_copies(folder), *numbered]}
    return [by_step[step] for step in sorted(by_step)]


def _copies(folder: Path) -> list[Path]:
    """Return the whole folders in the place of ``last`` and ``best``, as copies of earlier runs have them."""
    copies = (folder / name for name in ("last", "best") if pointers.is_copy(folder / name))
    return [path for path in copies if _damage(path) is None]


def _prune(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Remove all checkpoints but the newest ``keep`` and the best; later ones than this can only be damaged."""
    name = _name(checkpoint.step)
    kept = set([path.name for path in _folders(folder) if path.name <= name][-keep:])
    if checkpoint.best is not None:
        kept.add(_name(checkpoint.best.step))
    for path in _folders(folder):
        if path.name not in kept:
            # Windows removes no file that is open; the next save tries again.
            shutil.rmtree(path, ignore_errors=True)


def load_model(folder: str) -> FrozenRun:
    """Load the best weights of a run's model, frozen, and its vocabulary, for a mitigation that reads another run.

    Errors: an OSError where there is no run, a UserError where its files are damaged or lead out of the folder.
    """
    path = Path(folder)
    check_inside(path)
    metadata = read_metadata(path)
    weights = stored(path)
    check_weights(path, metadata, weights.file)
    prefix = "model."  # of the objective's parameters; the others belong to heads
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items() if name.startswith(prefix)}
    model = untrained(metadata.architecture)
    check_tensors(model, tensors, weights.file)
    load_base(path, metadata, model)
    model.load_state_dict(tensors)
    check_files(path, metadata, f"{VOCABULARY}/")
    return FrozenRun(model.eval().requires_grad_(False), vocabularies.load(path / VOCABULARY))
