"""A picture of a run's log: loss, dev scores, rate and norm of the gradient over its steps. It needs matplotlib."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from s2s.errors import matplotlib_module
from s2s.files.atomic import write_atomically
from s2s.files.foreign import parse_json

FILE = "curves.svg"
POINTS = 1000
"""At most so many points a curve: each is the mean of its neighbours."""

Curve = tuple[list[float], list[float]]


def available() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def draw(folder: Path) -> None:
    """Draw ``log.jsonl`` of a run as ``curves.svg`` beside it; the same log gives the same file."""
    matplotlib, figures = (
        matplotlib_module(name, "plots", "the picture of the curves") for name in ("matplotlib", "matplotlib.figure")
    )
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps, evaluations = _split([parse_json(line) for line in lines])
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


def _split(records: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steps, and the evaluations with their scores as values of their own."""
    evaluations = [{"step": record["step"], **record["dev"]} for record in records if "dev" in record]
    return [record for record in records if "dev" not in record], evaluations


def column(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """Steps and values of a name, where it has one."""
    found = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def thinned(records: Sequence[dict[str, Any]], name: str) -> Curve:
    """The same, with neighbours averaged where there are too many."""
    steps, values = column(records, name)
    size = -(-len(steps) // POINTS) or 1
    runs = range(0, len(steps), size)
    return [_mean(steps[at : at + size]) for at in runs], [_mean(values[at : at + size]) for at in runs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
