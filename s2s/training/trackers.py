"""Trackers, which pass the log of a run on to other programs: TensorBoard, Weights & Biases and others by name."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration

from s2s.console.terminal import Log
from s2s.errors import UserError, first_line, install_command, nearest
from s2s.recipe.recipe import Recipe, flat

PROJECT = "s2s"
FOLDER = "trackers"


def check(names: Sequence[str]) -> None:
    """Refuse trackers that accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"run.trackers: no '{name}'{nearest(name, LOGGER_TYPE_TO_CLASS)}")
        if name not in [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]:
            command = install_command(name) if name == "tensorboard" else f"pip install {name}"
            raise UserError(f"run.trackers: '{name}' is not installed ({command})")


def project(folder: Path) -> ProjectConfiguration:
    """Return the place of the files that trackers write."""
    return ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / FOLDER))


def start(accelerator: Accelerator, recipe: Recipe, step: int, log: Log) -> Callable[[dict[str, Any]], None]:
    """Open the recipe's trackers and return the function that passes a line of the log on to them.

    TensorBoard drops what an earlier process wrote of steps after ``step``. A tracker that fails, when it is opened or
    later (no network, a full disk), is named once by ``log`` and left out from then on: the run is worth more.
    """
    if not recipe.run.trackers:
        return lambda _: None
    # Trackers accept numbers and texts only.
    settings = {
        key: value if isinstance(value, int | float | str) else str(value) for key, value in flat(recipe.values())
    }
    options = {"tensorboard": {"purge_step": step + 1}, "wandb": {"name": Path(recipe.run.folder).name}}
    chosen = {name: options[name] for name in recipe.run.trackers if name in options}
    try:
        # On a resume the tracker has the settings already.
        accelerator.init_trackers(PROJECT, settings if step == 0 else None, chosen)
    except Exception as error:
        log(f"run.trackers: not all could be opened, the run continues without the rest: {_line(error)}")

    def on_record(record: dict[str, Any]) -> None:
        for tracker in list(accelerator.trackers):
            try:
                tracker.log(_values(record), step=record["step"])
            except Exception as error:
                log(f"run.trackers: {tracker.name} failed at step {record['step']} and gets no more: {_line(error)}")
                accelerator.trackers.remove(tracker)

    return on_record


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _values(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record: those of a step under train/, those of an evaluation under dev/."""
    section, values = ("dev", record["dev"]) if "dev" in record else ("train", record)
    return {f"{section}/{name}": value for name, value in values.items() if name != "step" and value is not None}


def finish(accelerator: Accelerator) -> None:
    """Close the trackers; one that cannot be closed has nothing more to lose."""
    for tracker in accelerator.trackers:
        with suppress(Exception):
            tracker.finish()
