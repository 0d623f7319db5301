"""Comparison of two systems on the same references: differences of all scores, with intervals and p-values."""

from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from s2s.errors import UserError
from s2s.metrics.bootstrap import LEAST, approximate_randomisation, compare, too_few
from s2s.metrics.overlap import Scores, Statistics, measured
from s2s.metrics.table import better

SAMPLES = 10_000


class System(NamedTuple):
    """The scores of one file of hypotheses, and their statistics."""

    name: str
    scores: Scores
    statistics: dict[str, Statistics]


class Difference(NamedTuple):
    """The first system's score minus the second's, its 95 % interval, and the p-values of two tests of no difference.

    With fewer sentences than ``LEAST`` there is no interval and no p-value.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p_bootstrap: float | None = None
    p_randomisation: float | None = None


def differences(
    first: Mapping[str, Statistics], second: Mapping[str, Statistics], samples: int = SAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Return the difference in each score that both systems have; a resample draws the same texts for both.

    Raises ``UserError`` for statistics of different texts, and for less than one sample.
    """
    if samples < 1:
        raise UserError(f"samples: {samples} is not at least 1")
    return {name: _difference(first[name], second[name], samples, seed) for name in first if name in second}


def signature(samples: int = SAMPLES, seed: int = 0) -> str:
    """Return how ``differences`` are tested, for the signature of a result."""
    return (
        f"paired-bootstrap|samples:{samples}|seed:{seed}|interval:percentile-95 + "
        f"approximate-randomisation|trials:{samples}|seed:{seed}|both from {LEAST} sentences on"
    )


def _difference(first: Statistics, second: Statistics, samples: int, seed: int) -> Difference:
    if too_few(len(first.rows)) and len(first.rows) == len(second.rows):
        values = [measured({"": statistics})[""] for statistics in (first, second)]
        return Difference(values[0] - values[1])
    drawn = compare(first.rows, second.rows, first.measure, samples, seed)
    p = approximate_randomisation(first.rows, second.rows, first.measure, samples, seed)
    return Difference(*drawn, p)


def show_comparison(first: System, second: System, compared: dict[str, Difference], how: str, console: Console) -> None:
    """Print both systems' scores, their differences and how these were tested; tab-separated if not on a terminal."""
    columns = ["metric", first.name, second.name, "difference", "low", "high", "p (bootstrap)", "p (randomisation)"]
    rows = [
        [name, *(f"{system.scores.values[name]:.2f}" for system in (first, second)), *_cells(row)]
        for name, row in compared.items()
    ]
    closing = f"{first.scores.signature} + {how}"
    note = too_few(min(len(statistics.rows) for statistics in first.statistics.values()))
    if not console.is_terminal:
        last = [["note", note]] if note else []
        print(*("\t".join(row) for row in [columns, *rows, *last, ["signature", closing]]), sep="\n", file=console.file)
        return
    table = Table(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("better")
    for row in rows:
        table.add_row(*row, better(row[0]))
    console.print(table, soft_wrap=False)
    if note:
        console.out(note, highlight=False)
    console.out(closing, highlight=False)


def _cells(row: Difference) -> list[str]:
    forms = ("+.2f", "+.2f", "+.2f", ".4f", ".4f")
    return ["" if value is None else format(value, form) for value, form in zip(row, forms, strict=True)]
