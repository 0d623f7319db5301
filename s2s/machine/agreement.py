"""How the processes of a run agree: the main one decides and tells the others, and an error of one ends all."""

import platform
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed

from s2s.errors import UserError, first_line
from s2s.files.atomic import naming

Value = TypeVar("Value")

MARK = ".shared-"
"""The beginning of the name of a file that the main process writes, for the others to see whether they have it too."""


def several() -> bool:
    """Say whether this process is one of a group."""
    return distributed.is_initialized() and distributed.get_world_size() > 1


def is_main() -> bool:
    """Say whether this process decides."""
    return not several() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Wait until all processes have come here.

    Accelerate's own barrier uses GPUs wherever torch sees one: processes that train on the processor would then need a
    GPU each.
    """
    if distributed.is_initialized():
        device_ids = [torch.cuda.current_device()] if distributed.get_backend() == "nccl" else None
        distributed.barrier(device_ids=device_ids)


def told(value: Value) -> Value:
    """Return the main process's value in every process."""
    if not several():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


@contextmanager
def failing_together() -> Iterator[None]:
    """Raise an error of the block, which a user can mend, in all processes: none may wait for one that has ended."""
    if not several():
        yield
        return
    failure: str | None = None
    try:
        yield
    except (UserError, OSError) as error:
        failure = str(error) or first_line(error)
    failures: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(failures, failure)
    if first := next(filter(None, failures), None):
        raise UserError(first)


def decided(decide: Callable[[], Value]) -> Value:
    """Return in every process what the main one returns, which alone reads files that others may see later or never."""
    with failing_together():
        value = decide() if is_main() else None
    return told(value)  # type: ignore[return-value]


def check_shared(folder: Path) -> None:
    """Refuse a run's folder that is another one on some machine, as without a common file system."""
    if not several():
        return
    name = decided(lambda: _mark(folder))
    lacking: list[str | None] = [None] * distributed.get_world_size()
    # No client of a network file system can have cached that this name is not there.
    distributed.all_gather_object(lacking, None if (folder / name).exists() else platform.node())
    machines = sorted({machine for machine in lacking if machine})
    if is_main():
        (folder / name).unlink(missing_ok=True)
        if machines and not any(folder.iterdir()):
            folder.rmdir()  # a run that is refused leaves no folder
    if machines:
        raise UserError(
            f"run.folder: {folder} is not one folder for all processes: on {', '.join(machines)} it lacks a file that "
            f"the main one wrote there; name a folder of a file system that all machines share"
        )


def _mark(folder: Path) -> str:
    with naming(folder):
        for left in folder.glob(f"{MARK}*"):  # of a start that was killed
            left.unlink(missing_ok=True)
        name = MARK + secrets.token_hex(4)
        (folder / name).touch()
    return name
