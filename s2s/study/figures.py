"""The pictures of a study: a forest plot of differences, and curves with a band over seeds."""

from collections.abc import Iterator, Sequence
from math import floor, isfinite, log10
from typing import NamedTuple

import numpy as np

from s2s.diagnose.report.svg import PALETTE
from s2s.metrics.bootstrap import Numbers
from s2s.metrics.table import Better
from s2s.study.statistics import Difference, Kind
from s2s.study.svg import (
    GREY,
    MARGIN,
    WIDTH,
    Axis,
    element,
    fitted,
    line,
    linear,
    logarithmic,
    number,
    picture,
    text,
    width,
)

ALPHA = 0.05
_GOOD, _BAD, _WITHIN = PALETTE[2], PALETTE[4], PALETTE[0]
_TITLE, _SMALL = 14.0, 11.0
# Of a forest plot: a row has a line of words above a strip with its interval.
_ROW, _STRIP = 40.0, 16.0
# Of curves: the heights of what is above the plot, of the plot, and of a line of the legend.
_ABOVE, _PLOT, _ENTRY = 52.0, 200.0, 18.0
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")


class Effect(NamedTuple):
    """A row of a forest plot: a difference; if it was declared, its p after Holm's correction, kind and margin."""

    label: str
    difference: Difference
    adjusted: float | None = None
    better: Better = "higher"
    kind: Kind = "difference"
    margin: float = 0.0

    @property
    def significant(self) -> bool:
        """Whether its family's tests find it."""
        return self.adjusted is not None and self.adjusted < ALPHA

    @property
    def colour(self) -> str:
        """Green for better, red for worse, blue for within the margin, grey for not found."""
        if not self.significant:
            return GREY
        if self.kind in ("equivalence", "non_inferiority"):
            return _WITHIN
        if self.better == "neither":
            return "currentColor"
        return _GOOD if (self.difference.estimate > 0) == (self.better == "higher") else _BAD

    @property
    def margins(self) -> list[float]:
        """The ends of the differences that its kind allows."""
        worse = self.margin if self.better == "lower" else -self.margin
        return {"equivalence": [-self.margin, self.margin], "non_inferiority": [worse]}.get(self.kind, [])


class Curve(NamedTuple):
    """A line: its numbers [k] on the horizontal axis, and the values [seeds, k]; NaN where there is none."""

    name: str
    x: Sequence[float]
    values: Numbers


class Panel(NamedTuple):
    """One plot of a forest: differences from one baseline in one unit, on an axis of their own."""

    title: str
    unit: str
    rows: Sequence[Effect]
    baseline: str = ""


def forest(panels: Sequence[Panel], title: str = "", name: str = "forest") -> str:
    """Draw differences with their 95 % intervals, as SVG: plots one below the other, with one key.

    A full point is a hypothesis whose p is below 0.05 after Holm's correction, a hollow one has a larger p, and a
    square was not tested. The band around 0 holds the differences that are too small for the study to find; margins are
    dashed. ``title`` is for readers that cannot see the picture, by default the first plot's; ``name`` makes its ids
    unique in a page.
    """
    parts: list[str] = []
    words: list[str] = []
    top = 0.0
    for panel in panels:
        drawn, sentences, top = _panel(panel, top)
        parts += drawn
        words += [f"{panel.title}, minus {panel.baseline}:", *sentences] if panel.baseline else sentences
    margins = any(row.margins for panel in panels for row in panel.rows)
    parts += _key(top + 10, margins)
    return picture(name, top + (60 if margins else 40), title or panels[0].title, " ".join(words), parts)


def _panel(panel: Panel, top: float) -> tuple[list[str], list[str], float]:
    """Return a plot that begins at ``top``, its rows in words, and where the next one may begin."""
    values = [0.0, *(value for row in panel.rows for value in (*_extent(row.difference), *row.margins))]
    axis = linear(values).within(MARGIN, WIDTH - MARGIN)
    # Three digits of the whole axis, so that intervals of a tenth of it still show how wide they are.
    decimals = max(0, 2 - floor(log10(axis.high - axis.low)))
    title = fitted(panel.title, WIDTH - 2 * MARGIN, _TITLE)
    parts = [text(MARGIN, top + 20, title, size=_TITLE, font_weight="600")]
    if panel.baseline:
        parts.append(text(MARGIN, top + 36, fitted(f"minus {panel.baseline}", WIDTH - 2 * MARGIN)))
        top += 16
    for index, row in enumerate(panel.rows):
        parts += _row(row, axis, decimals, top + 32 + index * _ROW)
    bottom = top + 36 + len(panel.rows) * _ROW
    parts += [*_horizontal(axis, bottom), *_ends(panel.rows, axis, bottom + 34)]
    parts.append(text(WIDTH / 2, bottom + 34, fitted(panel.unit, WIDTH / 2 - 2 * MARGIN), "middle"))
    return parts, [_sentence(row, decimals, panel.unit) for row in panel.rows], bottom + 44


def _extent(difference: Difference) -> list[float]:
    reach = difference.detectable
    values = [difference.estimate, difference.low, difference.high, reach, None if reach is None else -reach]
    return [value for value in values if value is not None and isfinite(value)]


def _row(row: Effect, axis: Axis, decimals: int, top: float) -> Iterator[str]:
    """Yield the words of a row and, below them, its band, zero line, interval and point."""
    difference, middle, bottom = row.difference, top + _ROW - _STRIP / 2, top + _ROW
    numbers = _numbers(difference, decimals) + (" *" if row.significant else "")
    yield text(WIDTH - MARGIN, top + 17, numbers, "end", _SMALL, style="font-variant-numeric:tabular-nums")
    yield text(MARGIN, top + 17, fitted(row.label, WIDTH - 3 * MARGIN - width(numbers, _SMALL)))
    if difference.detectable:
        left, right = axis.at(-difference.detectable), axis.at(difference.detectable)
        yield element("rect", x=left, y=bottom - _STRIP, width=right - left, height=_STRIP, fill_opacity=0.1)
    yield line(axis.at(0), bottom - _STRIP, axis.at(0), bottom, stroke_opacity=0.6)
    for margin in row.margins:
        yield line(axis.at(margin), bottom - _STRIP, axis.at(margin), bottom, _WITHIN, stroke_dasharray="3 2")
    if not isfinite(difference.estimate):
        return
    if difference.low is not None and difference.high is not None:
        yield line(axis.at(difference.low), middle, axis.at(difference.high), middle, row.colour, stroke_width=2.0)
    yield _point(axis.at(difference.estimate), middle, row)


def _point(x: float, y: float, row: Effect) -> str:
    if row.adjusted is None:
        return element("rect", x=x - 4, y=y - 4, width=8.0, height=8.0, fill=row.colour)
    # A hollow point has no fill at all, for the page's colour is not known here; its ring is wider than the interval.
    fill = row.colour if row.significant else "none"
    return element("circle", cx=x, cy=y, r=5.0, fill=fill, stroke=row.colour, stroke_width=2.0)


def _numbers(difference: Difference, decimals: int) -> str:
    if not isfinite(difference.estimate):
        return "no value"
    estimate = number(difference.estimate, decimals, sign=True)
    if difference.low is None or difference.high is None:
        return f"{estimate} (no interval)"
    return f"{estimate} [{number(difference.low, decimals)}, {number(difference.high, decimals)}]"


def _ends(rows: Sequence[Effect], axis: Axis, y: float) -> Iterator[str]:
    """Yield which end of the axis is the better one, if it is the same for all rows."""
    ways = {row.better for row in rows}
    if len(ways) == 1 and ways != {"neither"}:
        words = ("← worse", "better →") if ways == {"higher"} else ("← better", "worse →")
        yield text(axis.start, y, words[0], size=_SMALL)
        yield text(axis.end, y, words[1], "end", _SMALL)


def _key(y: float, margins: bool) -> Iterator[str]:
    yield element("circle", cx=MARGIN + 6, cy=y - 4, r=5.0)
    yield text(MARGIN + 18, y, "* p < 0.05 after Holm", size=_SMALL)
    yield element("circle", cx=186.0, cy=y - 4, r=5.0, fill="none", stroke="currentColor", stroke_width=2.0)
    yield text(198, y, "tested, not below 0.05", size=_SMALL)
    yield element("rect", x=362.0, y=y - 8, width=8.0, height=8.0)
    yield text(378, y, "not tested", size=_SMALL)
    yield element("rect", x=MARGIN, y=y + 8, width=14.0, height=12.0, fill_opacity=0.1)
    yield text(MARGIN + 20, y + 18, "too small to be found here (80 % power); lines: 95 % intervals", size=_SMALL)
    if margins:
        yield line(MARGIN + 7, y + 26, MARGIN + 7, y + 40, _WITHIN, stroke_dasharray="3 2")
        yield text(MARGIN + 20, y + 38, "declared margin; blue: within it", size=_SMALL)


def _sentence(row: Effect, decimals: int, unit: str) -> str:
    """Return a row in words."""
    difference = row.difference
    if not isfinite(difference.estimate):
        return f"{row.label}: no value."
    parts = [f"{row.label}: {number(difference.estimate, decimals, sign=True)} {unit}"]
    if difference.low is not None and difference.high is not None:
        parts.append(f"95 % interval {number(difference.low, decimals)} to {number(difference.high, decimals)}")
    if row.adjusted is not None:
        parts.append(f"{row.kind.replace('_', '-')}" + (f" within {row.margin:g}" if row.margin else ""))
        parts.append(f"p after Holm {row.adjusted:.2g}")
    if difference.detectable is not None:
        uncorrected = " before Holm" if row.adjusted is not None else ""
        parts.append(f"could have found {number(difference.detectable, decimals)}{uncorrected}")
    if row.better != "neither":
        parts.append(f"{row.better} is better")
    return ", ".join(parts) + "."


def curves(
    series: Sequence[Curve], title: str, x: str, y: str, logarithmic_x: bool = False, name: str = "curves"
) -> str:
    """Draw the means over seeds as lines and their ranges as bands, as SVG; ``x`` and ``y`` name axes and units.

    A point is drawn where all seeds of its curve have a value; a curve of one seed has no band.
    Where ``logarithmic_x``, the ticks are the numbers of the curves themselves.
    """
    shown = [(order, *_valid(curve)) for order, curve in enumerate(series)]
    heights = [value for _, _, values in shown for value in values.ravel()]
    vertical = linear(heights or [0.0], _ABOVE + _PLOT, _ABOVE)
    left = MARGIN + 6 + max(width(vertical.label(tick), _SMALL) for tick in vertical.ticks)
    places = [value for _, numbers, _ in shown for value in numbers] or [1.0]
    horizontal = logarithmic(places) if logarithmic_x else _tight(linear(places), places)
    horizontal = horizontal.within(left, WIDTH - MARGIN)
    parts = [
        text(MARGIN, 20, fitted(title, WIDTH - 2 * MARGIN, _TITLE), size=_TITLE, font_weight="600"),
        text(MARGIN, 36, fitted(y, WIDTH - 2 * MARGIN, _SMALL), size=_SMALL),
    ]
    for tick in vertical.ticks:
        height = vertical.at(tick)
        parts.append(line(left, height, WIDTH - MARGIN, height, stroke_opacity=0.15))
        parts.append(text(left - 6, height + 4, vertical.label(tick), "end", _SMALL))
    bottom = vertical.start
    for order, numbers, values in shown:
        parts += _curve(order, [horizontal.at(value) for value in numbers], values, vertical)
    parts += [*_horizontal(horizontal, bottom), text(WIDTH / 2, bottom + 34, fitted(x, WIDTH - 2 * MARGIN), "middle")]
    legend, lines = _legend(series, bottom + 56)
    sentences = [
        _course(series[order].name, numbers, values, vertical.decimals + 1) for order, numbers, values in shown
    ]
    description = f"{y} over {x}; bands are the range over seeds. " + " ".join(sentences)
    return picture(name, bottom + 46 + lines * _ENTRY, title, description, [*parts, *legend])


def _valid(curve: Curve) -> tuple[Numbers, Numbers]:
    """Return the numbers and values [seeds, k] of a curve where all seeds have a value."""
    numbers, values = np.asarray(curve.x, dtype=np.float64), np.atleast_2d(np.asarray(curve.values, dtype=np.float64))
    valid = np.isfinite(values).all(axis=0)
    return numbers[valid], values[:, valid]


def _tight(axis: Axis, places: Sequence[float]) -> Axis:
    """Return an axis that ends where the numbers do, since lines shall reach from side to side."""
    low, high = min(places), max(places)
    if low == high:
        return axis
    return axis._replace(low=low, high=high, ticks=tuple(tick for tick in axis.ticks if low <= tick <= high))


def _curve(order: int, places: Sequence[float], values: Numbers, vertical: Axis) -> Iterator[str]:
    colour, dash = PALETTE[order % len(PALETTE)], _DASHES[order % len(_DASHES)]
    if not places:
        return

    def path(heights: Numbers) -> list[str]:
        return [f"{x:.2f},{vertical.at(float(y)):.2f}" for x, y in zip(places, heights, strict=True)]

    if len(values) > 1:
        around = [*path(values.max(axis=0)), *reversed(path(values.min(axis=0)))]
        yield element("polygon", points=" ".join(around), fill=colour, fill_opacity=0.15)
    middle = path(values.mean(axis=0))
    yield element(
        "polyline", points=" ".join(middle), fill="none", stroke=colour, stroke_width=2.0, stroke_dasharray=dash
    )
    if len(middle) <= 12:
        for point in middle:
            x, y = point.split(",")
            yield element("circle", cx=x, cy=y, r=2.5, fill=colour)


def _horizontal(axis: Axis, y: float) -> Iterator[str]:
    """Yield a horizontal axis with its ticks and their numbers."""
    yield line(axis.start, y, axis.end, y)
    for tick in axis.ticks:
        yield line(axis.at(tick), y, axis.at(tick), y + 4)
        yield text(axis.at(tick), y + 17, axis.label(tick), "middle", _SMALL)


def _legend(series: Sequence[Curve], top: float) -> tuple[list[str], int]:
    """Return the entries of a legend, in columns, and the number of its lines."""
    room = WIDTH - 2 * MARGIN
    column = min(room, max(width(curve.name, _SMALL) for curve in series) + 44)
    columns = max(1, int(room // column))
    parts = []
    for index, curve in enumerate(series):
        x, y = MARGIN + index % columns * column, top + index // columns * _ENTRY
        colour, dash = PALETTE[index % len(PALETTE)], _DASHES[index % len(_DASHES)]
        parts.append(line(x, y - 4, x + 24, y - 4, colour, stroke_width=2.0, stroke_dasharray=dash))
        parts.append(text(x + 30, y, fitted(curve.name, column - 30, _SMALL), size=_SMALL))
    return parts, -(-len(series) // columns)


def _course(name: str, numbers: Numbers, values: Numbers, decimals: int) -> str:
    """Return the ends of a curve in words."""
    if not len(numbers):
        return f"{name}: no value."
    means = values.mean(axis=0)
    first, last = (number(float(mean), decimals) for mean in (means[0], means[-1]))
    return f"{name}: {first} at {numbers[0]:g}, {last} at {numbers[-1]:g}."
