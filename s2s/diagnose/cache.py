"""What was measured, kept as arrays in the run's folder: by the weights, the examples and what was asked.

A file's name is a hash of all that its numbers depend on, so an outdated one is never read; it is written under another
name first, so a broken off diagnosis leaves whole files or none.
"""

import json
import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from inspect import getsource
from pathlib import Path
from typing import Any

import numpy as np

from s2s.diagnose import (
    cached_passes,
    corruptions,
    hallucination,
    margin,
    oracle,
    ragged_arrays,
    recovery,
    rollouts,
    traces,
)
from s2s.diagnose.ragged_arrays import Arrays
from s2s.diagnose.subjects import Subject
from s2s.diagnose.truths import weights_hash
from s2s.errors import own_version

logger = logging.getLogger("s2s")

MEASURING = (corruptions, hallucination, margin, oracle, cached_passes, ragged_arrays, recovery, rollouts, traces)
"""The modules that the numbers come from: when one of them is edited, what was kept is no longer read."""
DIGEST = "sha256"
"""The name of the hash of the others among a file's arrays."""


class Cache:
    """The measures of one run on one set of examples."""

    def __init__(self, subject: Subject) -> None:
        self.folder = subject.run.folder / "diagnosis" / "cache"
        self.identity = [own_version(), code_hash(), weights_hash(subject.run), _ids_hash(subject), subject.run.kernel]

    def get(self, name: str, asked: Mapping[str, Any], measure: Callable[[], Arrays]) -> Arrays:
        """The arrays of a measure under these settings: as they were kept, or measured and kept now."""
        path = self.path(name, asked)
        if (found := read(path)) is not None:
            return found
        arrays = measure()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(path, arrays)
        except OSError as error:  # a run on a disk that is full or read-only can be measured all the same
            logger.warning("%s: not kept for the next time (%s)", path, error.strerror or error)
        return arrays

    def path(self, name: str, asked: Mapping[str, Any]) -> Path:
        """Where the arrays of a measure are kept."""
        key = json.dumps([*self.identity, name, asked], sort_keys=True)
        return self.folder / f"{name}-{sha256(key.encode()).hexdigest()[:16]}.npz"


def code_hash() -> str:
    """The SHA-256 of what measures."""
    digest = sha256()
    for module in MEASURING:
        digest.update(getsource(module).encode())
    return digest.hexdigest()


def _ids_hash(subject: Subject) -> str:
    rows = [[list(source), list(target)] for source, target in subject.pairs]
    return sha256(json.dumps(rows).encode()).hexdigest()


def write(path: Path, arrays: Arrays) -> None:
    """Keep arrays with a hash of them, first under another name."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **{DIGEST: np.array(_digest(arrays))})
    partial.replace(path)


def read(path: Path) -> Arrays | None:
    """Return the arrays of a file, or None where there is none, or one that is not as it was written."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            return arrays if str(arrays.pop(DIGEST)) == _digest(arrays) else None
    except Exception:  # zipfile, zlib and numpy each have their own for a damaged file, and it is only a copy
        return None


def _digest(arrays: Arrays) -> str:
    """The SHA-256 of arrays with their names, types and shapes."""
    digest = sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
