"""Measurements of a run as arrays in files, so that the next diagnosis need not repeat its passes.

A file's name is a hash of all that its numbers depend on, so an outdated one is never read.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2s.diagnose.traces import Trace
from s2s.errors import UserError
from s2s.files.atomic import naming, open_output

logger = logging.getLogger("s2s")

Arrays = dict[str, NDArray[Any]]
DIGEST = "sha256"
"""The name of the hash of the others among a file's arrays."""


class Cache:
    """The measurements of one run on one set of examples, which the texts of ``identity`` identify."""

    def __init__(self, folder: Path, identity: Sequence[str]) -> None:
        self.folder, self.identity = folder, identity

    def get(self, name: str, asked: Mapping[str, Any], measure: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a pass under these settings: read from their file, or measured and written now."""
        key = sha256(json.dumps([*self.identity, name, asked], sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{name}-{key[:16]}.npz"
        if (arrays := read(path)) is not None:
            return arrays
        arrays = measure()
        try:
            with naming(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                write(path, arrays)
        except UserError as error:  # a run on a disk that is full or read-only can be measured all the same
            logger.warning("not kept for the next time: %s", error)
        return arrays


def write(path: Path, arrays: Arrays) -> None:
    """Write arrays with a hash of them; see ``open_output``."""
    with open_output(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **{DIGEST: np.array(_digest(arrays))})


def read(path: Path) -> Arrays | None:
    """Return the arrays of a file, or None where there is none, or one that is not as it was written."""
    try:
        # A pickle could run code, and the folder of a run may come from elsewhere. A zip has its own checksums, but
        # they fit a file too whose arrays were renamed or replaced.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            return arrays if str(arrays.pop(DIGEST)) == _digest(arrays) else None
    except Exception:  # zipfile, zlib and numpy each raise their own for a damaged file, and it is only a copy
        return None


def _digest(arrays: Arrays) -> str:
    """Hash arrays with their names, types and shapes."""
    digest = sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def flatten(name: str, rows: Sequence[Sequence[int]]) -> Arrays:
    """Return rows of ids of different lengths as one array and their lengths."""
    ids = np.array([token for row in rows for token in row], dtype=np.int64)
    return {name: ids, f"{name}_lengths": np.array([len(row) for row in rows], dtype=np.int64)}


def rows(name: str, arrays: Arrays) -> list[list[int]]:
    """Return the rows that ``flatten`` was given."""
    return [part.tolist() for part in _parts(arrays[name], arrays[f"{name}_lengths"])]


def flatten_traces(name: str, traces: Sequence[Trace]) -> Arrays:
    """Return traces as one array for each of their fields, and their lengths."""
    fields = {f"{name}_{field}": np.concatenate([getattr(row, field) for row in traces]) for field in Trace._fields}
    return {**fields, f"{name}_lengths": np.array([len(row.tokens) for row in traces], dtype=np.int64)}


def traces(name: str, arrays: Arrays) -> list[Trace]:
    """Return the traces that ``flatten_traces`` was given."""
    columns = [_parts(arrays[f"{name}_{field}"], arrays[f"{name}_lengths"]) for field in Trace._fields]
    return [Trace(*parts) for parts in zip(*columns, strict=True)]


def _parts(values: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(lengths)[:-1])
