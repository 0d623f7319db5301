"""Rows of different lengths as flat arrays, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2s.diagnose.traces import Trace

Arrays = dict[str, NDArray[Any]]


def flat(name: str, rows: Sequence[Sequence[int]]) -> Arrays:
    """Rows of ids as one array and their lengths."""
    ids = np.array([token for row in rows for token in row], dtype=np.int64)
    return {name: ids, f"{name}_lengths": np.array([len(row) for row in rows], dtype=np.int64)}


def rows(name: str, arrays: Arrays) -> list[list[int]]:
    """The rows of ``flat``."""
    return [part.tolist() for part in _parts(arrays[name], arrays[f"{name}_lengths"])]


def flat_traces(name: str, traces: Sequence[Trace]) -> Arrays:
    """Traces as one array for each of their fields, and their lengths."""
    fields = {f"{name}_{field}": np.concatenate([getattr(one, field) for one in traces]) for field in Trace._fields}
    return {**fields, f"{name}_lengths": np.array([len(one.tokens) for one in traces], dtype=np.int64)}


def traces(name: str, arrays: Arrays) -> list[Trace]:
    """The traces of ``flat_traces``."""
    columns = [_parts(arrays[f"{name}_{field}"], arrays[f"{name}_lengths"]) for field in Trace._fields]
    return [Trace(*parts) for parts in zip(*columns, strict=True)]


def _parts(values: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(lengths)[:-1])
