"""Figures as inline SVG that takes the page's colour of text, light or dark."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

from s2s.errors import matplotlib_module

PALETTE = ["#3d84c6", "#d9772b", "#3f9b5b", "#a463c4", "#d0485f", "#2a9d9d", "#9c7148", "#808890"]
"""One colour a method, of medium lightness: readable on white and on black."""
_INK = "#010203"
"""A colour in which nothing else is drawn: in the written SVG ``currentColor`` replaces it."""
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.prop_cycle": "",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}


def draw(name: str, paint: Callable[[Any], None]) -> str:
    """Return the SVG of a figure as wide as a phone; ``paint`` draws on its axes, and ``name`` makes its ids unique.

    Raises ``UserError`` where matplotlib is not installed.
    """
    matplotlib, figures = (
        matplotlib_module(name, "diagnose", "the report") for name in ("matplotlib", "matplotlib.figure")
    )
    # Ids of clipping paths are hashes: with a fixed salt, and no date, a record always gives the same page.
    settings = {**_SETTINGS, "axes.prop_cycle": matplotlib.cycler(color=PALETTE), "svg.hashsalt": name}
    with matplotlib.rc_context(settings):
        figure = figures.Figure(figsize=(4.6, 3.1), layout="constrained")
        paint(figure.subplots())
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Turn an SVG file into an element of a page, without prologue, metadata and namespaces, and with unique ids."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    # All figures are in one page, where equal ids would let one figure use the clipping paths of another.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    return svg.replace(_INK, "currentColor")
