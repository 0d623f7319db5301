"""The figures of a report, each drawn from a record; a method's curve is the mean of its runs'."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from s2s.diagnose.report.svg import PALETTE, draw
from s2s.metrics.bootstrap import Numbers

Plain = dict[str, Any]
Paint = Callable[[Any, Plain], None]
"""Draws a record on axes of matplotlib."""


class Plot(NamedTuple):
    """A figure: its name, caption, and SVG."""

    name: str
    caption: str
    svg: str


class Figure(NamedTuple):
    """The caption of a figure, its painter, and the records that have the numbers for it."""

    caption: str
    paint: Paint
    applies: Callable[[Plain], bool] = lambda _: True


def plots(record: Plain) -> list[Plot]:
    """Draw all figures that the record has the numbers for."""
    return [
        Plot(name, figure.caption, draw(name, partial(_paint, figure, record)))
        for name, figure in FIGURES.items()
        if figure.applies(record)
    ]


def _paint(figure: Figure, record: Plain, axes: Any) -> None:
    figure.paint(axes, record)


def mean_of(record: Plain, method: Plain, *path: str) -> Numbers:
    """Return the mean over a method's runs of the numbers under these keys, of each item where there is a list."""
    rows = [np.array(_under(record["runs"][run], path), dtype=float) for run in method["runs"]]
    width = min(map(len, rows))  # texts of different runs have different lengths
    stacked = np.stack([row[:width] for row in rows])
    valid = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(valid, stacked, 0).sum(axis=0) / valid.sum(axis=0)


def _under(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = [item[key] for item in value] if isinstance(value, list) else value[key]
    return value


def _coloured(record: Plain) -> Iterator[tuple[Plain, str]]:
    for number, method in enumerate(record["methods"]):
        yield method, PALETTE[number % len(PALETTE)]


def _label(axes: Any, x: str, y: str | None = None, zero: bool = False) -> None:
    """Name the axes, draw a line at 0 if asked, and add the legend."""
    axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)
    if zero:
        axes.axhline(0, color=PALETTE[-1], linewidth=0.8)
    axes.legend()


def damage(axes: Any, record: Plain) -> None:
    """Draw the damage under each corruption with its interval; hollow where the method has seen it."""
    names, methods = list(record["methods"][0]["corruptions"]), record["methods"]
    for number, (method, colour) in enumerate(_coloured(record)):
        seen = {name for run in method["runs"] for name in record["runs"][run]["seen"]}
        shift = 0.6 * ((number + 0.5) / len(methods) - 0.5)
        for row, name in enumerate(names):
            head = method["corruptions"][name]
            if head["estimate"] is None:
                continue
            ends = [head["estimate"] if head[side] is None else head[side] for side in ("low", "high")]
            axes.plot(ends, [row + shift] * 2, color=colour, linewidth=1.5)
            axes.plot(head["estimate"], row + shift, "o", color=colour, fillstyle="none" if name in seen else "full")
        # An empty curve gives the legend one entry for the method, and not one for each corruption.
        axes.plot([], [], "o", color=colour, label=method["name"])
    axes.axvline(0, color=PALETTE[-1], linewidth=0.8)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    _label(axes, "damage in nats; hollow: seen in training")


def recovery(axes: Any, record: Plain) -> None:
    """Draw the cost after a damaged prefix by distance: held-out corruptions together, own errors dashed."""
    for method, colour in _coloured(record):
        kinds = [mean_of(record, method, "recovery", name, "curve") for name in record["held_out"]]
        own_errors = mean_of(record, method, "recovery", "own_errors", "curve")
        distances = np.arange(1, len(own_errors) + 1)
        if kinds:
            axes.plot(distances, np.mean(kinds, axis=0), color=colour, label=method["name"])
        axes.plot(distances, own_errors, "--", color=colour, label=None if kinds else method["name"])
    _label(axes, "tokens after the prefix; dashed: own errors", "more cost than after gold, nats", zero=True)


def by_position(kind: str, label: str) -> Paint:
    """Return the painter of a measure after gold prefixes and after own ones along the text."""

    def paint(axes: Any, record: Plain) -> None:
        for method, colour in _coloured(record):
            for side, style in (("forced", "-"), ("free", "--")):
                values = mean_of(record, method, "gap", kind, side)
                positions = (np.arange(len(values)) + 0.5) / len(values)
                axes.plot(positions, values, style, color=colour, label=method["name"] if side == "forced" else None)
        _label(axes, "position in the text, 0 .. 1; dashed: own prefixes", label)

    return paint


def by_beams(label: str, x: str = "beams", **styles: str) -> Paint:
    """Return the painter of measures of searched texts by beam width, each in its style."""

    def paint(axes: Any, record: Plain) -> None:
        widths = [point["beams"] for point in record["runs"][0]["search"]]
        for method, colour in _coloured(record):
            for number, (key, style) in enumerate(styles.items()):
                values = mean_of(record, method, "search", key)
                axes.plot(widths, values, style, color=colour, label=None if number else method["name"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        _label(axes, x, label)

    return paint


def reliability(axes: Any, record: Plain) -> None:
    """Draw accuracy over confidence after gold prefixes and after own ones."""
    axes.plot([0, 1], [0, 1], color=PALETTE[-1], linewidth=0.8)
    for method, colour in _coloured(record):
        for side, style in (("forced", "-"), ("free", "--")):
            x, y = (mean_of(record, method, "calibration", side, key) for key in ("confidence", "accuracy"))
            axes.plot(x, y, style, color=colour, label=method["name"] if side == "forced" else None)
    _label(axes, "confidence; dashed: own prefixes", "accuracy")


def margins(axes: Any, record: Plain) -> None:
    """Draw how much more gold is worth than another target of equal length, by token."""
    for method, colour in _coloured(record):
        low, middle, high = (mean_of(record, method, "margin", "by_token", key) for key in ("low", "estimate", "high"))
        numbers = np.arange(1, len(middle) + 1)
        axes.plot(numbers, middle, color=colour, label=method["name"])
        axes.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
    _label(axes, "token", "margin over a distractor, nats", zero=True)


def accumulated(axes: Any, record: Plain) -> None:
    """Draw the excess of accumulated error by length."""
    for method, colour in _coloured(record):
        values = mean_of(record, method, "accumulation", "excess")
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=method["name"])
    _label(axes, "tokens", "error in excess, %", zero=True)


def _has_su_gap(record: Plain) -> bool:
    return all(any(point["su_gap"] is not None for point in run["search"]) for run in record["runs"])


def _has_margins(record: Plain) -> bool:
    return all(run["margin"]["by_token"] for run in record["runs"])


def _has_accumulation(record: Plain) -> bool:
    return all(run["accumulation"] and run["accumulation"]["excess"] for run in record["runs"])


FIGURES: dict[str, Figure] = {
    "damage": Figure("Damage: how much more the tokens after a damaged prefix cost, by kind of damage", damage),
    "recovery": Figure("Recovery: how the cost goes back with distance", recovery),
    "accuracy": Figure("Accuracy after gold and after own prefixes", by_position("accuracy", "accuracy")),
    "cost": Figure("Cost a token after gold and after own prefixes", by_position("cost", "nats")),
    "entropy": Figure("Entropy of the next token", by_position("entropy", "nats")),
    "beams": Figure("Quality over beam width", by_beams("chrF, mean of sentences", chrf="o-")),
    "su_gap": Figure(
        "Su's gap: right at every step, wrong as a whole",
        by_beams("share of locally right sentences", su_gap="o-"),
        _has_su_gap,
    ),
    "errors": Figure(
        "Model errors and search errors over beam width",
        by_beams("share of sentences", "beams; dashed: search errors", model_errors="o-", search_errors="s--"),
    ),
    "reliability": Figure("Reliability: does confidence mean what it says?", reliability),
    "margins": Figure("Gold against another target of equal length", margins, _has_margins),
    "accumulated": Figure("Accumulated error against the oracle", accumulated, _has_accumulation),
}
