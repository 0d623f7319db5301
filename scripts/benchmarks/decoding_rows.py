"""The measurements of ``benchmark_decoding.py`` for each system, and its rows."""

import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.decoders import DECODERS
from benchmarks.processes import Worker
from benchmarks.timing import Time
from s2s.console.terminal import plain_console


class Runner(Worker):
    """A system with a precision, and its time for each size of batch and round."""

    def __init__(self, name: str, precision: str, settings: dict[str, Any]) -> None:
        chosen = {**settings, "system": name, "precision": precision}
        super().__init__(name, True, chosen, "decoding_worker.py")
        self.precision, self.work = precision, dict(self.work or [])
        self.taken: dict[int, list[Time]] = {batch: [] for batch, _ in settings["plan"]}

    def run(self, batch: int) -> None:
        """Decode all sources once, and measure the peak right before it."""
        self.taken[batch].append(Time(*self.ask(decode=batch)))
        self.peaks.append(self.ask(peak=True)["peak"])


def summary(runner: Runner, batch: int, sources: int) -> dict[str, Any]:
    """Return a row: medians over rounds, and the smallest and greatest CPU time a source."""
    taken = runner.taken[batch]
    seconds = [time.cpu / sources for time in taken]
    return {
        "system": runner.name,
        "precision": runner.precision,
        "batch": batch,
        "sources": sources,
        "seconds": statistics.median(time.wall for time in taken),
        "cpu_seconds": statistics.median(time.cpu for time in taken),
        "cpu_seconds_a_sentence": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "floor": runner.work[batch] / max(runner.peaks) / sources,
        "peak_flops": max(runner.peaks),
        "rounds_cpu_seconds_a_sentence": seconds,
    }


def compare(rows: list[dict[str, Any]]) -> None:
    """Give each row its time over that of this project in float32, in place: the median over rounds."""
    s2s_rows = {row["batch"]: row for row in rows if row["system"] == "s2s" and row["precision"] == "fp32"}
    for row in rows:
        one_at_a_time = not DECODERS[row["system"]].batches
        for batch, s2s_row in s2s_rows.items():
            if not one_at_a_time and batch != row["batch"]:
                continue
            pairs = zip(row["rounds_cpu_seconds_a_sentence"], s2s_row["rounds_cpu_seconds_a_sentence"], strict=True)
            name = f"ratio_to_batch_{batch}" if batch != row["batch"] else "ratio"
            row[name] = statistics.median(theirs / mine for theirs, mine in pairs)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table, a size of batch after the other."""
    table = Table(title=title)
    for head in ("system", "precision"):
        table.add_column(head, no_wrap=True)
    for head in (
        "batch",
        "sources",
        "CPU ms a sentence",
        "min .. max",
        "floor",
        "ms by the clock",
        "s2s is x times as fast",
    ):
        table.add_column(head, justify="right")
    for row in sorted(rows, key=lambda row: row["batch"]):
        median, (low, high) = row["cpu_seconds_a_sentence"], (1000 * row["least"], 1000 * row["most"])
        spread, floor = f"{low:.1f} .. {high:.1f}", f"{1000 * row['floor']:.1f}"
        clock = f"{1000 * row['seconds'] / row['sources']:.1f}"
        ratios = [f"{value:.2f}{name[5:].replace('_', ' ')}" for name, value in row.items() if name.startswith("ratio")]
        shown = str(row["batch"]), str(row["sources"]), f"{1000 * median:.1f}", spread, floor, clock
        table.add_row(row["system"], row["precision"], *shown, ", ".join(ratios))
    plain_console(width=140).print(table)
