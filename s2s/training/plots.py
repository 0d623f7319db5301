"""A picture of a run's log: loss, dev scores, rate and norm of the gradient by step. It needs matplotlib."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from s2s.errors import matplotlib_module
from s2s.files.atomic import write_atomically
from s2s.runs.log import read_log

FILE = "curves.svg"
POINTS = 1000
"""Largest number of points of a curve; beyond it each point is the mean of neighbouring steps."""

Curve = tuple[list[float], list[float]]


def available() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(folder: Path) -> None:
    """Draw a run's ``log.jsonl`` as ``curves.svg``; the same log gives the same file."""
    matplotlib, figures = (
        matplotlib_module(name, "plots", "the picture of the curves") for name in ("matplotlib", "matplotlib.figure")
    )
    records = read_log(folder)
    steps = [record for record in records if "dev" not in record]
    evaluations = [{"step": record["step"], **record["dev"]} for record in records if "dev" in record]
    # Without a salt matplotlib makes up random ids, so that no two files are alike.
    with matplotlib.rc_context({"svg.hashsalt": "s2s", "svg.fonttype": "none"}):
        figure = figures.Figure(figsize=(10, 6), layout="constrained")
        losses, scores, rates, norms = figure.subplots(2, 2).flat
        losses.plot(*thinned(steps, "loss"), label="train")
        losses.plot(*column(evaluations, "loss"), "o-", label="dev")
        losses.legend()
        names = [name for name in (evaluations[-1] if evaluations else {}) if name not in ("step", "loss")]
        for name in names:
            scores.plot(*column(evaluations, name), "o-", label=name)
        if names:
            scores.legend()
        rates.plot(*thinned(steps, "rate"))
        norms.semilogy(*thinned(steps, "norm"))
        titles = {losses: "loss", scores: "dev scores", rates: "rate", norms: "norm of the gradient"}
        for axes, title in titles.items():
            axes.set(title=title, xlabel="step")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_atomically(folder / FILE, text.getvalue())


def column(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """Return the steps at which a name has a value, and the values."""
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return [float(step) for step, _ in points], [float(value) for _, value in points]


def thinned(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """Return steps and values, with neighbours averaged if there are more than ``POINTS``."""
    steps, values = column(records, name)
    size = -(-len(steps) // POINTS) or 1
    starts = range(0, len(steps), size)
    return [fmean(steps[at : at + size]) for at in starts], [fmean(values[at : at + size]) for at in starts]
