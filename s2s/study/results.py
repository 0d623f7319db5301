"""Small results that outlive big weights: a file for each finished run, from which all tables and pictures are made.

A file holds each sentence's sums for every score, the hypotheses, the curve of dev, time, hardware, version and the
hashes of recipe, data and hypotheses: JSON, compressed, a few dozen kilobytes.
"""

import json
import lzma
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np

from s2s.diagnose import calibration, gap, oracle, recovery, search_errors
from s2s.diagnose.measurements import Quantity
from s2s.errors import UserError, first_line
from s2s.files.atomic import open_output
from s2s.files.foreign import parse_json
from s2s.heads.scoring import SUMMED
from s2s.metrics import overlap
from s2s.metrics.bootstrap import Measure, Numbers, mean
from s2s.metrics.table import TEXT_METRICS, Better, better
from s2s.study.settings import Plan

MOST_BYTES = 200_000
"""Of one run's file: results are tracked in git, and weights are not."""
SUFFIX = ".json.xz"
PRECISION = 0.01
"""The largest rounding error of a kept sum, in standard deviations of its column over sentences.

The mean of 300 sentences has an error of 0.06 of these deviations, so the rounding of each is beyond notice.
"""
ROUNDING = 1e-12
"""Deviations below this share of a column's largest number are no information."""
QUANTITIES: dict[str, Measure] = {
    "beam_curse": search_errors.curse,
    "calibration_gap": calibration.error_growth,
    "overconfidence_gap": calibration.confidence_growth,
    "eb_slope": gap.eb_slope,
    "language_slope": gap.language_slope,
    **dict.fromkeys(("clean_cost", "su_gap", "model_errors", "distracted", "hallucinations"), mean),
    **dict.fromkeys(("length_ratio", "repetition", "copying"), mean),
}
"""The measures of quantities of the diagnosis, besides damages and accumulated errors."""
SCORES: dict[str, Measure] = {
    "bleu": overlap.bleu,
    "chrf": overlap.chrf,
    **{name: measure.of_total for name, measure in SUMMED.items()},
}
"""The measures of scores, besides percentages of two sums."""


@dataclass(frozen=True)
class Table:
    """Sums [N, F] of N sentences for a score or a quantity, and how they are read by people."""

    title: str
    unit: str
    better: str
    rows: Numbers
    distances: int = 0  # of a damage

    def measure(self, name: str) -> Measure:
        """Return the function from sums to the endpoint's value."""
        return partial(recovery.damage, distances=self.distances) if self.distances else measure_of(name)

    def plain(self) -> dict[str, Any]:
        """Return the table as whole numbers in columns, which compress well, and the unit of each column."""
        columns, scales = [], []
        for column in self.rows.T:
            whole = bool((column == np.round(column)).all())
            # Of a column of equal numbers, or of numbers that differ in their rounding alone, the number itself.
            spread = max(float(column.std()), float(np.abs(column).max()) * ROUNDING)
            exponent = 0 if whole else math.floor(math.log10(spread * PRECISION))
            scales.append(exponent)
            columns.append(np.round(column / 10.0**exponent).astype(np.int64).tolist())
        values = {key: value for key, value in vars(self).items() if key != "rows"}
        return {**values, "exponents": scales, "columns": columns}

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Table":
        """Read what ``plain`` wrote."""
        columns = np.array(values["columns"], dtype=np.float64)
        scales = 10.0 ** np.array(values["exponents"], dtype=np.float64)
        rows = (columns * scales[:, None]).T
        return cls(values["title"], values["unit"], values["better"], rows, values["distances"])


@dataclass(frozen=True)
class Result:
    """All that a study keeps of one finished run."""

    variant: str
    seed: int
    recipe: str  # hash of what was written in the recipe
    measured: str  # hash of what was measured after training
    hypotheses: str  # hash of the hypotheses that were declared when the run was measured
    data: str  # fingerprint of train and dev
    tested: str  # fingerprint of the sentences that were scored
    version: str
    hardware: dict[str, Any]
    cost: dict[str, float]  # (CPU) seconds of training and measuring; parameters, bytes and seconds a step of training
    steps: int  # updates of the run
    step: int  # of the checkpoint that was scored
    dev: list[dict[str, float]]  # scores of each evaluation
    texts: dict[str, list[str]]  # hypotheses of each search
    tables: dict[str, Table] = field(default_factory=dict)  # by endpoint: SEARCH.SCORE, HEAD.SCORE or a quantity
    report: list[str] = field(default_factory=list)
    beams: list[int] = field(default_factory=list)  # widths of the quantity beam_curse; earlier versions kept none

    @property
    def converged(self) -> bool:
        """Whether the last evaluation lowers the best loss on dev by no more than 0.01."""
        # Against all evaluations before: after a bump, the last step down alone would look like progress.
        losses = self.losses
        return len(losses) > 1 and min(losses[:-1]) - losses[-1] <= 0.01

    @property
    def losses(self) -> list[float]:
        """The loss on dev at each evaluation."""
        return [row["loss"] for row in self.dev if "loss" in row]

    @property
    def cpu_minutes(self) -> float:
        """The CPU time of training and measuring."""
        return sum(seconds for key, seconds in self.cost.items() if key.endswith("_cpu")) / 60

    def value(self, endpoint: str) -> float:
        """Return the run's value of an endpoint."""
        table = self.tables[endpoint]
        return float(table.measure(endpoint)(table.rows.sum(axis=0)))


def measure_of(endpoint: str) -> Measure:
    """Return the function from sums to the value of a score of a search or head, or of a quantity of the diagnosis."""
    _, dot, score = endpoint.partition(".")
    if not dot:
        return oracle.excess if endpoint.startswith("excess_error_") else QUANTITIES[endpoint]
    return SCORES.get(score, overlap.percent)


def score_table(score: str, rows: Numbers) -> Table:
    """Return the table of a score of generated texts."""
    return Table(TEXT_METRICS[score].title, "points", better(score), rows)


def head_table(score: str, rows: Numbers) -> Table:
    """Return the table of a score of a head."""
    return Table(SUMMED[score].title, "0..100", better(score), rows)


def quantity_table(quantity: Quantity, rows: Numbers, distances: int) -> Table:
    """Return the table of a quantity of the diagnosis."""
    damage = quantity.name.startswith("damage")
    return Table(quantity.title, quantity.unit, quantity.better, rows, distances if damage else 0)


def path_of(plan: Plan, variant: str, seed: int) -> Path:
    """Return the file of a run's results."""
    return plan.results / f"{variant}-{seed}{SUFFIX}"


def write(path: Path, result: Result) -> int:
    """Write a run's file and return its size in bytes. Errors: a UserError for sums that are not finite."""
    for name, table in result.tables.items():
        if not np.isfinite(table.rows).all():
            sentence = int(np.argwhere(~np.isfinite(table.rows).all(axis=1))[0, 0]) + 1
            raise UserError(f"{path.name}: {name}: sentence {sentence} has a sum that is not finite")
    values = {**asdict(result), "tables": {name: table.plain() for name, table in result.tables.items()}}
    # Tracked in git, so small counts; columns of small whole numbers repeat a lot.
    content = lzma.compress(json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode(), preset=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_output(path) as file:
        file.write(content)
    return len(content)


def read(path: Path) -> Result:
    """Read a run's file. Errors: a UserError for a file that is cut or of something else."""
    try:
        values = parse_json(lzma.decompress(path.read_bytes()).decode())
        _check(values)
        tables = {name: Table.of(table) for name, table in values["tables"].items()}
        result = Result(**{**values, "tables": tables})
        if path.name != f"{result.variant}-{result.seed}{SUFFIX}":
            raise ValueError(f"it is of {result.variant}, seed {result.seed}")
        return result
    except (lzma.LZMAError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path}: no results of a study's run ({first_line(error)}); remove it to run again") from error


def _check(values: Any) -> None:
    """Refuse values of other types than a result has, which would fail later without a file's name."""
    for item in fields(Result):
        kind: Any = get_origin(item.type) or item.type
        # Results of earlier versions lack the last ones, which are lists.
        value = values.get(item.name, [])
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{item.name} is no {kind.__name__}")
    numbers = [*values["cost"].values(), *(number for row in values["dev"] for number in row.values())]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ValueError("cost and dev are not numbers")
    if not {"processor", "precision"} <= values["hardware"].keys():
        raise ValueError("hardware names no processor or precision")
    for name, table in values["tables"].items():
        if table["better"] not in get_args(Better):
            raise ValueError(f"{name}: better is {table['better']!r}")
        if len({len(column) for column in table["columns"]}) != 1:
            raise ValueError(f"{name}: its columns have different lengths")
    if not values["tables"]:
        raise ValueError("it has no tables")


def kept(plan: Plan, variant: str, seed: int) -> Result | None:
    """Return the results of a run if they are there, of whatever recipe."""
    path = path_of(plan, variant, seed)
    return read(path) if path.is_file() else None


def stored(plan: Plan, variant: str, seed: int) -> Result | None:
    """Return the results of a run if they are there and of the recipe as it is now; None otherwise."""
    result = kept(plan, variant, seed)
    return result if result and result.recipe == plan.fingerprint(variant) else None


def check_replaced(plan: Plan, runs: Iterable[tuple[str, int]]) -> None:
    """Refuse to replace results of a recipe that has changed since. Errors: a UserError with their names."""
    changed = [
        path_of(plan, *run) for run in runs
        if (result := kept(plan, *run)) and result.recipe != plan.fingerprint(run[0])
    ]  # fmt: skip
    if changed:
        raise UserError(
            f"{plan.results}: {', '.join(path.name for path in changed)}: results of a recipe that has changed since; "
            f"give results=ANOTHER, or remove them to have these runs again"
        )


def fitting(plan: Plan, results: Sequence[Result]) -> list[str]:
    """Return lines on results that were measured otherwise than the study says now, or are of unequal data."""
    lines = []
    if other := sorted({result.variant for result in results if result.measured != plan.measured_hash(result.variant)}):
        lines.append(f"searched, scored or diagnosed otherwise than the study says now: {', '.join(other)}")
    if other := sorted({result.variant for result in results if result.hypotheses != plan.hypotheses_hash()}):
        lines.append(f"begun before the hypotheses were as they are now: {', '.join(other)}")
    values = {name: sorted({getattr(result, name) for result in results}) for name in ("data", "tested")}
    return [*lines, *(f"runs differ in their {name}: {', '.join(all)}" for name, all in values.items() if len(all) > 1)]
