"""What figures share: the mean over a method's runs, and a colour for each method."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from s2s.diagnose.report.svg import PALETTE
from s2s.metrics.bootstrap import Numbers

Plain = dict[str, Any]


def mean_of(record: Plain, method: Plain, *path: str) -> Numbers:
    """The mean over a method's runs of the numbers under these keys, of each item where there is a list."""
    rows = [np.array(_under(record["runs"][run], path), dtype=float) for run in method["runs"]]
    width = min(map(len, rows))
    each = np.stack([row[:width] for row in rows])
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        found: Numbers = np.where(there, each, 0).sum(axis=0) / there.sum(axis=0)
    return found


def _under(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = [each[key] for each in value] if isinstance(value, list) else value[key]
    return value


def coloured(record: Plain) -> Iterator[tuple[Plain, str]]:
    """Each method with its colour."""
    for place, method in enumerate(record["methods"]):
        yield method, PALETTE[place % len(PALETTE)]
