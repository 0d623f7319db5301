"""The page of a record."""

from pathlib import Path

from s2s.diagnose.report.figures import Plain, plots
from s2s.errors import optional_module
from s2s.metrics.bootstrap import LEAST


def page(record: Plain) -> str:
    """Render the page of a record, with all texts escaped. Raises ``UserError`` where a package is not installed."""
    jinja2 = optional_module("jinja2", "diagnose", "the report")
    # StrictUndefined: a key that the record lacks is an error, and not a blank in the page.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number": number, "interval": interval, "signed": signed, "value": sort_key}
    return str(environment.get_template("page.html").render(record=record, plots=plots(record)))


def number(value: float | None) -> str:
    """Write a number with three significant digits."""
    return "none" if value is None else f"{value:.3g}"


def signed(value: float | None) -> str:
    """Write a difference with its sign."""
    return "none" if value is None else f"{value:+.3g}"


def sort_key(value: float | None) -> str:
    """Write the value by which ``page.js`` sorts a cell; empty cells are sorted last."""
    return "" if value is None else repr(value)


def interval(row: Plain) -> str:
    """Write the ends of an interval, or why there is none."""
    if row["low"] is not None:
        return f"{row['low']:.3g} .. {row['high']:.3g}"
    value = row["estimate"] if "estimate" in row else row["difference"]
    return "none" if value is None else f"none: fewer than {LEAST} sentences"
