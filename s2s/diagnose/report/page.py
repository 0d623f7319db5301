"""From a record to the page."""

from pathlib import Path
from typing import Any

from s2s.diagnose.report.figures import plots
from s2s.errors import optional_module
from s2s.metrics.significance import LEAST

Plain = dict[str, Any]
HERE = Path(__file__).resolve().parent


def page(record: Plain) -> str:
    """The page of a record: all texts in it are escaped. Raises ``UserError`` where a package is not installed."""
    jinja2 = optional_module("jinja2", "diagnose", "the report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number": number, "interval": interval, "signed": signed, "value": value}
    return str(environment.get_template("page.html").render(record=record, plots=plots(record)))


def number(found: float | None) -> str:
    """A number of three digits that count."""
    return "none" if found is None else f"{found:.3g}"


def signed(found: float | None) -> str:
    """A difference."""
    return "none" if found is None else f"{found:+.3g}"


def value(found: float | None) -> str:
    """What a column is sorted by; what has no value comes last."""
    return "" if found is None else repr(found)


def interval(found: Plain) -> str:
    """Return the ends of an interval, or why there is none."""
    if found["low"] is not None:
        return f"{found['low']:.3g} .. {found['high']:.3g}"
    value = found["estimate"] if "estimate" in found else found["difference"]
    return "none" if value is None else f"none: fewer than {LEAST} sentences"
