"""Pieces of SVG pictures that need no package: elements, text that fits, and axes.

Everything is drawn in ``currentColor`` or a colour that can be read on white and on black, so that a picture inside of
a page takes the page's colours, light or dark.
"""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple
from unicodedata import east_asian_width

from s2s.diagnose.report.svg import PALETTE

WIDTH, MARGIN = 480.0, 12.0
"""Of a picture, in its own units: on a phone, letters of size 12 are still some 9 points high."""
SIZE = 12.0
GREY = PALETTE[-1]

# Powers of ten below this are 0.
_TINY = 1e-300
_STYLE = "svg{color:#1d2126}@media (prefers-color-scheme:dark){svg{color:#e6e9ec}}"


class Axis(NamedTuple):
    """A line of numbers: from ``start`` at ``low`` to ``end`` at ``high``, with marks at ``ticks``."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    decimals: int = 0
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the coordinate of a number."""
        low, high = (log10(self.low), log10(self.high)) if self.logarithmic else (self.low, self.high)
        share = ((log10(value) if self.logarithmic else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def label(self, tick: float) -> str:
        """Return the words of a tick."""
        return f"{tick:g}" if self.logarithmic else number(tick, self.decimals)

    def within(self, left: float, right: float) -> "Axis":
        """Return the axis between ``left`` and ``right``, with room for its end labels and without touching ones."""
        reach = max(width(self.label(tick)) for tick in self.ticks) / 2
        axis = self._replace(start=left + reach, end=right - reach)
        kept = [axis.ticks[-1]]
        for tick in reversed(axis.ticks[:-1]):
            gap = 6 + (width(axis.label(tick)) + width(axis.label(kept[-1]))) / 2
            if axis.at(kept[-1]) - axis.at(tick) >= gap:
                kept.append(tick)
        return axis._replace(ticks=tuple(reversed(kept)))


def linear(values: Sequence[float], start: float = 0.0, end: float = WIDTH, most: int = 6) -> Axis:
    """Return an axis around numbers with at most ``most`` round ticks, 1, 2 or 5 times a power of ten apart."""
    low, high = min(values), max(values)
    size = max(abs(low), abs(high))
    if high - low <= max(1e-12 * size, _TINY):
        reach = size if size > _TINY else 1.0
        low, high = low - reach, high + reach
    step = _step((high - low) / (most - 1))
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    decimals = max(0, -floor(log10(step) + 1e-9))
    count = round((high - low) / step)
    return Axis(low, high, start, end, tuple(round(low + n * step, decimals) for n in range(count + 1)), decimals)


def _step(least: float) -> float:
    unit = 10.0 ** floor(log10(least))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= least * (1 - 1e-9))


def logarithmic(values: Sequence[float]) -> Axis:
    """Return a logarithmic axis with its ticks at the numbers themselves."""
    numbers = tuple(sorted(set(values)))
    low, high = (numbers[0], numbers[-1]) if len(numbers) > 1 else (numbers[0] / 2, numbers[0] * 2)
    return Axis(low, high, 0.0, WIDTH, numbers, logarithmic=True)


def number(value: float, decimals: int, sign: bool = False) -> str:
    """Return a number with the sign of minus that typographers use, and plus if asked."""
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def width(text: str, size: float = SIZE) -> float:
    """Return how wide a text is at most in usual sans-serif letters, of which SVG alone does not know the widths."""
    return size * sum(map(_share, text))


def _share(letter: str) -> float:
    """Return the width of a letter as a share of the size, a little more than in DejaVu Sans, which is a wide type."""
    if east_asian_width(letter) in "WF" or letter in "MWmw@%…←→":
        return 1.0
    return 0.75 if letter.isupper() else 0.62


def fitted(text: str, room: float, size: float = SIZE) -> str:
    """Return a text that is no wider than there is room, cut with an ellipsis where it must be."""
    if width(text, size) <= room:
        return text
    while text and width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def element(name: str, content: str = "", /, **attributes: str | float) -> str:
    """Return an element; numbers are rounded to hundredths, and ``_`` in names is ``-``."""
    parts = [f'{key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items()]
    start = " ".join([name, *parts])
    return f"<{start}>{content}</{name}>" if content else f"<{start}/>"


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, words: str, anchor: str = "start", size: float = SIZE, **attributes: str | float) -> str:
    """Return words at a place, of which ``anchor`` says whether they start, have their middle or end there."""
    return element("text", escape(words), x=x, y=y, text_anchor=anchor, font_size=size, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "currentColor", **attributes: str | float) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, **attributes)


def picture(name: str, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """Return an SVG element for a page, which readers that cannot see it know by its title and description.

    ``name`` makes its ids unique in the page.
    """
    texts = element("title", escape(title), id=f"{name}-title") + element(
        "desc", escape(description), id=f"{name}-desc"
    )
    return element(
        "svg",
        "\n".join([texts, *parts]),
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        font_family="system-ui, sans-serif",
        fill="currentColor",
    )


def as_file(svg: str) -> str:
    """Return a picture as a file of its own, with colours of text for light and for dark surroundings."""
    start, rest = svg.split(">", 1)
    return f'{start} xmlns="http://www.w3.org/2000/svg">{element("style", _STYLE)}{rest}\n'
