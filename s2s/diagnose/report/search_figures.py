"""The figures of search and of confidence."""

from collections.abc import Callable
from typing import Any

from s2s.diagnose.report.drawing import Plain, coloured, mean_of
from s2s.diagnose.report.svg import PALETTE


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
