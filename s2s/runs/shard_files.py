"""Checkpoints in parts: each process writes its own parts of tensors, and any number of processes reads them.

``torch.distributed.checkpoint`` writes a file of safetensors for each process, ``shard-00002-model-00001-of-00001.
safetensors``, whose header says where in the whole tensor each part belongs. Its other format is a pickle, which a
folder of somebody else's must not be able to run.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, distributed

from s2s.errors import UserError, first_line
from s2s.files.folders import AGAIN, entry

PATTERN = "shard-*.safetensors"
WEIGHTS, BUFFERS, AVERAGE, OPTIMIZER = "weights/", "buffers/", "ema/", "optimizer/"
"""The beginnings of the names of tensors: of weights, of other buffers of the model, of the weights' moving average,
and of the optimizer's state."""

ERRORS = (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)


def named(
    weights: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    optimizer: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint by their names in the files, and the optimizer's state without its own.

    Numbers of that state, such as the step, are no tensors here even where torch has them as such.
    """
    tensors = {WEIGHTS + name: tensor for name, tensor in weights.items()}
    tensors |= {BUFFERS + name: tensor for name, tensor in buffers.items()}
    tensors |= {AVERAGE + name: tensor for name, tensor in (average or {}).items()}
    numbers: dict[int, dict[str, Any]] = {}
    for number, state in optimizer["state"].items():
        numbers[number] = {}
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                tensors[f"{OPTIMIZER}{number}/{name}"] = value
            else:
                numbers[number][name] = value
    return tensors, {**optimizer, "state": numbers}


def with_moments(optimizer: Mapping[str, Any], moments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with its tensors, by NUMBER/NAME, or with anything in their place."""
    states = {number: dict(state) for number, state in optimizer["state"].items()}
    for key, moment in moments.items():
        number, _, name = key.partition("/")
        if not number.isdecimal() or int(number) not in states:
            raise UserError(f"a moment of a parameter {number[:20]!r}, which the optimizer has not; {AGAIN}")
        states[int(number)][name] = moment
    return {**optimizer, "state": states}


def parts(folder: Path) -> list[Path]:
    """Return the files of a checkpoint in parts; none for another."""
    return sorted(folder.glob(PATTERN))


def write(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Write this process's parts of tensors, divided or not; return the entries of all processes' files in a manifest.

    All processes have to call it. Of tensors that are not divided, one process writes each.
    """
    with _library() as dcp:
        dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    # Each process reads its own file back, and not the main one all of them.
    number = distributed.get_rank() + 1 if distributed.is_initialized() else 1
    written = {path.name: entry(path) for path in folder.glob(PATTERN.replace("*", f"{number:05d}-*"))}
    if not distributed.is_initialized():
        return written
    entries: list[dict[str, dict[str, Any]]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(entries, written)
    return {name: line for lines in entries for name, line in lines.items()}


@contextmanager
def _library() -> Iterator[Any]:
    """Give ``torch.distributed.checkpoint``, and raise what fails within as a RuntimeError."""
    from torch.distributed import checkpoint as dcp  # most of a second, which only checkpoints in parts spend

    try:
        with warnings.catch_warnings():
            # A process without a group writes and reads by itself.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield dcp
    except dcp.api.CheckpointException as error:  # no Exception to torch, and the reason of one process within it
        reason = next(iter(error.failures.values()))[0]
        raise RuntimeError(first_line(reason)) from reason


def shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of each tensor of a checkpoint in parts. Errors: a UserError where they cannot be read."""
    try:
        with _library() as dcp:
            metadata = dcp.HuggingFaceStorageReader(str(folder)).read_metadata()
        return {
            name: (tuple(tensor.size), tensor.properties.dtype) for name, tensor in metadata.state_dict_metadata.items()
        }
    except ERRORS as error:
        raise UserError(f"{folder}: its parts cannot be read ({first_line(error)}); {AGAIN}") from error


def read(folder: Path, targets: Mapping[str, Tensor], no_group: bool = False) -> None:
    """Read tensors into targets, divided or not, each process its own parts; ``no_group``: in this process only."""
    try:
        with _library() as dcp:
            dcp.load(dict(targets), storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=no_group)
    except ERRORS as error:
        raise UserError(f"{folder}: its parts cannot be read ({first_line(error)}); {AGAIN}") from error


def read_whole(folder: Path, beginning: str) -> dict[str, Tensor]:
    """Return the whole tensors whose names have this beginning, without it."""
    targets = {
        name: torch.empty(shape, dtype=dtype)
        for name, (shape, dtype) in shapes(folder).items()
        if name.startswith(beginning)
    }
    read(folder, targets, no_group=True)
    return {name.removeprefix(beginning): tensor for name, tensor in targets.items()}
