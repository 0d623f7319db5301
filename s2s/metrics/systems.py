"""Two systems' texts against the same references: differences of all scores, with their intervals and p-values."""

from collections.abc import Mapping
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from s2s.errors import UserError
from s2s.metrics.bootstrap import approximate_randomisation, paired_bootstrap
from s2s.metrics.overlap import Scores, Statistics, measured
from s2s.metrics.significance import LEAST, too_few

SAMPLES = 10_000


class System(NamedTuple):
    """The scores of one file of hypotheses, and the statistics that they are made of."""

    name: str
    scores: Scores
    statistics: dict[str, Statistics]


class Difference(NamedTuple):
    """The first system's score minus the second's, and its 95 % interval, in 0..100; two p-values for no difference.

    None of too few sentences: see ``LEAST``.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p_bootstrap: float | None = None
    p_randomisation: float | None = None


def differences(
    first: Mapping[str, Statistics], second: Mapping[str, Statistics], samples: int = SAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """The difference in each score that both systems have, texts being drawn together for both.

    Raises ``UserError`` for statistics of different texts, and for less than one sample.
    """
    if samples < 1:
        raise UserError(f"samples: {samples} is not at least 1")
    return {name: _difference(first[name], second[name], samples, seed) for name in first if name in second}


def signature(samples: int = SAMPLES, seed: int = 0) -> str:
    """How ``differences`` are tested, for the signature of a result."""
    return (
        f"paired-bootstrap|samples:{samples}|seed:{seed}|interval:percentile-95 + "
        f"approximate-randomisation|trials:{samples}|seed:{seed}|both from {LEAST} sentences on"
    )


def _difference(first: Statistics, second: Statistics, samples: int, seed: int) -> Difference:
    if too_few(len(first.rows)) and len(first.rows) == len(second.rows):
        ours, theirs = (measured({"": each})[""] for each in (first, second))
        return Difference(ours - theirs)
    drawn = paired_bootstrap(first.rows, second.rows, first.measure, samples, seed)
    p = approximate_randomisation(first.rows, second.rows, first.measure, samples, seed)
    return Difference(*drawn, p)


def show_comparison(first: System, second: System, found: dict[str, Difference], how: str, console: Console) -> None:
    """Print both systems' scores, their differences and how they were tested; tab-separated where it is no terminal."""
    columns = ["metric", first.name, second.name, "difference", "low", "high", "p (bootstrap)", "p (randomisation)"]
    rows = [
        [name, *(f"{system.scores.values[name]:.2f}" for system in (first, second)), *_cells(row)]
        for name, row in found.items()
    ]
    closing = f"{first.scores.signature} + {how}"
    note = too_few(min(len(each.rows) for each in first.statistics.values()))
    if not console.is_terminal:
        last = [["note", note]] if note else []
        print(*("\t".join(row) for row in [columns, *rows, *last, ["signature", closing]]), sep="\n", file=console.file)
        return
    table = Table(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    if note:
        console.out(note, highlight=False)
    console.out(closing, highlight=False)


def _cells(row: Difference) -> list[str]:
    shown = [*(_shown(value, "+.2f") for value in row[:3]), *(_shown(p, ".4f") for p in row[3:])]
    return shown


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
