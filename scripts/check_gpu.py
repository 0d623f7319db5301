"""Check this machine's GPU, and measure it: ``python scripts/check_gpu.py`` prints a Markdown table.

Ten minutes at most. It compares the GPU with the processor (every mitigation, head, optimizer and search), and shows
what only a card can: the kernels that attention takes with our masks, ``run.compile``, the fused loss, the time and
memory of updates and of a beam's steps, and how often the processor waits. A check that fails is a row of the table.
Exit codes: 0 all checks ran, 1 some failed, 2 there is no GPU.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import _checkout  # noqa: F401
import torch
from benchmarks import gpu_equality, gpu_kernels, gpu_steps
from benchmarks.gpu_card import SMALL, Card, Row, Rows, Sizes

from s2s.errors import UserError, first_line

CHECKS: dict[str, Callable[[Card], Rows]] = {
    # The first one measures the peak, of which later ones are given as a share.
    "peak": gpu_kernels.peak,
    "attention": gpu_kernels.attention,
    "training": gpu_steps.training,
    "decoding": gpu_steps.decoding,
    "waits": gpu_steps.waits,
    "mitigations": gpu_equality.mitigations,
    "runs": gpu_equality.runs,
    "searches": gpu_equality.searches,
    "run.fused_loss": gpu_kernels.fused,
    # The last one compiles for minutes.
    "run.compile": gpu_kernels.compiled,
}
FAILED, LEFT_OUT = "failed", "left out"
GRACE = 45
"""Seconds after the limit at which the process ends, if a check does not return: a kernel cannot be stopped."""


class Line(NamedTuple):
    """A row of the table: its check, what was done, and what came of it."""

    check: str
    case: str
    result: str


class Table:
    """The rows, printed as they come: what a check that hangs has found is on the screen."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.output = sys.stdout

    def begin(self, title: str) -> None:
        """Print the title and the heads of the columns."""
        print(f"{title}\n\n| check | case | result |\n|---|---|---|", file=self.output, flush=True)

    def add(self, check: str, row: Row) -> None:
        """Print a row."""
        self.lines.append(Line(check, *row))
        # A bar would end the cell.
        cells = " | ".join(cell.replace("|", "/") for cell in self.lines[-1])
        print(f"| {cells} |", file=self.output, flush=True)

    @property
    def failures(self) -> list[Line]:
        """The rows of what has failed."""
        return [line for line in self.lines if line.result.startswith(FAILED)]


def driver() -> str:
    """Return the version of the driver, as its own command tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20, encoding="utf-8")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.split()), "unknown")


def title() -> str:
    """Return the card, its memory, and the versions that matter."""
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, driver {driver()}"
    return f"{torch.cuda.get_device_name(0)} ({memory:.0f} GiB), {versions}"


def run(card: Card, names: Sequence[str], left_out: Sequence[str], table: Table, until: float) -> None:
    """Run the checks that the time allows; each has its own guard."""
    for name in names:
        if name in left_out:
            table.add(name, Row("", f"{LEFT_OUT}: as --leave-out says"))
            continue
        if time.monotonic() > until:
            table.add(name, Row("", f"{LEFT_OUT}: the time is up"))
            continue
        try:
            # The lines that runs print are not part of the table.
            with redirect_stdout(sys.stderr):
                for row in CHECKS[name](card):
                    table.add(name, row)
                    if time.monotonic() > until:
                        table.add(name, Row("", f"{LEFT_OUT} from here on: the time is up"))
                        break
        except UserError as error:
            table.add(name, Row("", f"{LEFT_OUT}: {error}"))
        except Exception as error:
            table.add(name, Row("", f"{FAILED}: {type(error).__name__}: {first_line(error)}"))
        # The model of the last check, before the next one asks for memory.
        torch.cuda.empty_cache()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--small", action="store_true", help="the smallest sizes: to see whether all of it runs")
    options.add_argument("--minutes", type=float, default=9.0, help="after these no further check begins; default 9")
    options.add_argument("--only", nargs="+", choices=CHECKS, default=[*CHECKS], help="default: all checks")
    options.add_argument("--leave-out", nargs="+", choices=CHECKS, default=[], help="checks that do not run")
    return options


def main(texts: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    arguments = parser().parse_args(texts)
    if not torch.cuda.is_available():
        print("error: there is no CUDA GPU here; nothing was checked", file=sys.stderr)
        return 2
    table, seconds = Table(), 60 * arguments.minutes
    table.begin(title())

    def end() -> None:
        print(f"error: no check returned within {seconds + GRACE:.0f} s; the table ends here", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)

    watch = threading.Timer(seconds + GRACE, end)
    watch.daemon = True
    watch.start()
    with TemporaryDirectory() as folder:
        card = Card(SMALL if arguments.small else Sizes(), Path(folder))
        run(card, arguments.only, arguments.leave_out, table, time.monotonic() + seconds)
    watch.cancel()
    print(f"\n{len(table.lines)} rows, {len(table.failures)} failed", file=table.output)
    return int(bool(table.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
