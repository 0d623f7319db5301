"""The figures of a report, each drawn from a record; a method is the mean of its runs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from s2s.diagnosis.statistics import Numbers
from s2s.report.vector import PALETTE, draw

Plain = dict[str, Any]


class Plot(NamedTuple):
    """A figure: its name, caption, and SVG."""

    name: str
    caption: str
    svg: str


class Figure(NamedTuple):
    """How a figure is made, and of which records."""

    caption: str
    paint: Callable[[Any, Plain], None]  # on axes
    there: Callable[[Plain], bool] = lambda _: True


def plots(record: Plain) -> list[Plot]:
    """All figures that the record has the numbers for."""
    return [
        Plot(name, figure.caption, draw(name, partial(_painted, figure, record)))
        for name, figure in FIGURES.items()
        if figure.there(record)
    ]


def _painted(figure: Figure, record: Plain, axes: Any) -> None:
    figure.paint(axes, record)


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


def damage(axes: Any, record: Plain) -> None:
    """Damage under each corruption with its interval; hollow where the method has seen it."""
    names, methods = list(record["methods"][0]["corruptions"]), record["methods"]
    for number, (method, colour) in enumerate(coloured(record)):
        seen = {name for run in method["runs"] for name in record["runs"][run]["seen"]}
        shift = 0.6 * ((number + 0.5) / len(methods) - 0.5)
        for place, name in enumerate(names):
            one = method["corruptions"][name]
            if one["estimate"] is None:
                continue
            low, high = (one["estimate"] if one[side] is None else one[side] for side in ("low", "high"))
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.5)
            axes.plot(one["estimate"], place + shift, "o", color=colour, fillstyle="none" if name in seen else "full")
        axes.plot([], [], "o", color=colour, label=method["name"])
    axes.axvline(0, color=PALETTE[-1], linewidth=0.8)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("damage in nats; hollow: seen in training")
    axes.legend()


def recovery(axes: Any, record: Plain) -> None:
    """The cost behind a damaged prefix by distance: held-out corruptions together, own errors dashed."""
    for method, colour in coloured(record):
        kinds = [mean_of(record, method, "recovery", name, "curve") for name in record["held_out"]]
        own = mean_of(record, method, "recovery", "own_errors", "curve")
        distances = np.arange(1, len(own) + 1)
        if kinds:
            axes.plot(distances, np.mean(kinds, axis=0), color=colour, label=method["name"])
        axes.plot(distances, own, "--", color=colour, label=None if kinds else method["name"])
    axes.axhline(0, color=PALETTE[-1], linewidth=0.8)
    axes.set_xlabel("tokens behind the prefix; dashed: own errors")
    axes.set_ylabel("more cost than behind gold, nats")
    axes.legend()


def by_position(kind: str, label: str) -> Callable[[Any, Plain], None]:
    """A measure behind gold prefixes and behind own ones along the text."""

    def paint(axes: Any, record: Plain) -> None:
        for method, colour in coloured(record):
            for side, style in (("forced", "-"), ("free", "--")):
                values = mean_of(record, method, "gap", kind, side)
                places = (np.arange(len(values)) + 0.5) / len(values)
                axes.plot(places, values, style, color=colour, label=method["name"] if side == "forced" else None)
        axes.set_xlabel("place in the text, 0 .. 1; dashed: own prefixes")
        axes.set_ylabel(label)
        axes.legend()

    return paint


def over_beams(key: str, label: str) -> Callable[[Any, Plain], None]:
    """A measure of searched texts over the number of beams."""

    def paint(axes: Any, record: Plain) -> None:
        for method, colour in coloured(record):
            widths = [point["beams"] for point in record["runs"][0]["search"]]
            values = mean_of(record, method, "search", key)
            axes.plot(widths, values, "o-", color=colour, label=method["name"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_xlabel("beams")
        axes.set_ylabel(label)
        axes.legend()

    return paint


def errors(axes: Any, record: Plain) -> None:
    """Model errors and search errors over the number of beams."""
    for method, colour in coloured(record):
        widths = [point["beams"] for point in record["runs"][0]["search"]]
        for key, style in (("model_errors", "o-"), ("search_errors", "s--")):
            values = mean_of(record, method, "search", key)
            axes.plot(widths, values, style, color=colour, label=method["name"] if style == "o-" else None)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xlabel("beams; dashed: search errors")
    axes.set_ylabel("share of sentences")
    axes.legend()


def reliability(axes: Any, record: Plain) -> None:
    """Accuracy over confidence behind gold prefixes and behind own ones."""
    axes.plot([0, 1], [0, 1], color=PALETTE[-1], linewidth=0.8)
    for method, colour in coloured(record):
        for side, style in (("forced", "-"), ("free", "--")):
            confidence, accuracy = (
                mean_of(record, method, "calibration", side, key) for key in ("confidence", "accuracy")
            )
            axes.plot(confidence, accuracy, style, color=colour, label=method["name"] if side == "forced" else None)
    axes.set_xlabel("confidence; dashed: own prefixes")
    axes.set_ylabel("accuracy")
    axes.legend()


def margins(axes: Any, record: Plain) -> None:
    """How much more gold is worth than another target of equal length, by token."""
    for method, colour in coloured(record):
        low, middle, high = (mean_of(record, method, "margin", "by_token", key) for key in ("low", "estimate", "high"))
        places = np.arange(1, len(middle) + 1)
        axes.plot(places, middle, color=colour, label=method["name"])
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color=PALETTE[-1], linewidth=0.8)
    axes.set_xlabel("token")
    axes.set_ylabel("margin over a distractor, nats")
    axes.legend()


def _has_margins(record: Plain) -> bool:
    return all(run["margin"]["by_token"] for run in record["runs"])


def _any(values: Sequence[Any]) -> bool:
    return any(value is not None for value in values)


FIGURES: dict[str, Figure] = {
    "damage": Figure("Damage: what the tokens behind a damaged prefix cost more, by kind of damage", damage),
    "recovery": Figure("Recovery: how the cost goes back with distance", recovery),
    "accuracy": Figure("Accuracy behind gold and behind own prefixes", by_position("accuracy", "accuracy")),
    "cost": Figure("Cost a token behind gold and behind own prefixes", by_position("cost", "nats")),
    "entropy": Figure("Entropy of the next token", by_position("entropy", "nats")),
    "beams": Figure("Quality over beam width", over_beams("chrf", "chrF, mean of sentences")),
    "su_gap": Figure(
        "Su's gap: right at every step, wrong as a whole",
        over_beams("su_gap", "share of locally right sentences"),
        lambda record: all(_any([point["su_gap"] for point in run["search"]]) for run in record["runs"]),
    ),
    "errors": Figure("Model errors and search errors over beam width", errors),
    "reliability": Figure("Reliability: does confidence mean what it says?", reliability),
    "margins": Figure("Gold against another target of equal length", margins, _has_margins),
}
