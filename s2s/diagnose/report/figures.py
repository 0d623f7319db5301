"""The figures of a report, each drawn from a record; a method is the mean of its runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from s2s.diagnose.report.drawing import Plain, coloured, mean_of
from s2s.diagnose.report.search_figures import errors, over_beams, reliability
from s2s.diagnose.report.svg import PALETTE, draw


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


def accumulated(axes: Any, record: Plain) -> None:
    """The excess of accumulated error over length."""
    for method, colour in coloured(record):
        values = mean_of(record, method, "accumulation", "excess")
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=method["name"])
    axes.axhline(0, color=PALETTE[-1], linewidth=0.8)
    axes.set_xlabel("tokens")
    axes.set_ylabel("error in excess, %")
    axes.legend()


def _has_accumulation(record: Plain) -> bool:
    return all(run["accumulation"] and run["accumulation"]["excess"] for run in record["runs"])


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
    "accumulated": Figure("Accumulated error against the oracle", accumulated, _has_accumulation),
}
