"""Training throughput of this project and of its peers, on one list of examples: ``--help`` lists the options.

A step pads a batch, runs forward and backward, clips, and makes a fused AdamW update. Each system runs in a process of
its own, with the switches of its users (``default``) and with ours (``ours``: the float32 kernel that this project
measures and chooses, and glibc keeping freed memory); a step of each follows a step of the other, in an order that
rotates. A repeat is one pass over all examples, the same ones for all. ``s2s`` and ``..._bucketed`` batch examples of
like length; the other peers, BART's shape too, batch them in a random order and pad to the longest.

Useful tokens are source tokens that are no padding and target labels. CPU seconds are of all threads. The share of the
peak is the least work that the examples need by formula (``useful_work`` in ``benchmarks/systems.py``) a CPU second,
over that of a large matrix product in the same process and repeat with the better kernel. Memory is the most that the
process held, libraries included. ``ratio`` is useful tokens a CPU second of the first row, ``s2s`` with our switches
where they are asked for, over the row's.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import _checkout  # noqa: F401
import torch
from benchmarks import timing
from benchmarks.options import options, parsed
from benchmarks.peers import Shape
from benchmarks.processes import Worker
from benchmarks.systems import SYSTEMS
from rich.progress import track
from rich.table import Table

from s2s.console.terminal import plain_console
from s2s.errors import UserError, nearest
from s2s.machine.paths import KERNELS
from s2s.runs.paths import faster_kernel

NUMBERS = {
    "threads": 1,
    "repeats": 3,
    "batches": 4,
    "batch": 32,
    "source_tokens": 180,
    "target_tokens": 20,
    "vocabulary": 8000,
    "width": 256,
    "layers": 6,
    "heads": 4,
}
"""Options that are whole numbers, and their defaults."""
SWITCHES = {"ours": True, "default": False}
SHARED = ("precision", "threads", "repeats", "batches", "batch", "source_tokens", "target_tokens")
"""The options that every row of the JSON bears, and those of the shape."""


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that all workers share."""
    sizes = timing.Sizes(arguments.batch, arguments.source_tokens, arguments.target_tokens)
    lengths = timing.ragged(sizes, arguments.batches)
    arguments.positions = int(lengths.max(axis=(0, 1)).sum()) + 1
    shape = Shape(*(getattr(arguments, name) for name in Shape._fields))
    shared = {name: getattr(arguments, name) for name in ("threads", "precision", "batches")}
    return {**shared, "sizes": sizes, "shape": shape}


def start(arguments: argparse.Namespace, stack: ExitStack) -> list[Worker]:
    """Return a worker for each system and switch, ours first; what is not installed is named and left out."""
    kernel, shared, workers = arguments.kernel or faster_kernel(), settings(arguments), list[Worker]()
    for name in dict.fromkeys(["s2s", *arguments.systems]):
        for switches in (switched for label, switched in SWITCHES.items() if label in arguments.switches):
            chosen = {**shared, "system": name, "kernel": kernel if switches else "default"}
            worker = stack.enter_context(Worker(name, switches, chosen))
            if worker.missing:
                print(f"{name}: left out: {worker.missing}", file=sys.stderr)
                break
            workers.append(worker)
    return workers


def interleave(workers: Sequence[Worker], repeats: int, batches: int) -> None:
    """Run a step that does not count, on the longest batch, then the repeats; each ends with the worker's peak."""
    for worker in workers:
        worker.step(batches - 1)
    numbers = [(repeat, batch) for repeat in range(repeats) for batch in range(batches)]
    for count, (repeat, batch) in enumerate(
        track(numbers, "steps", console=plain_console(stderr=True), transient=True)
    ):
        first = count % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            worker.times[repeat].append(worker.step(batch))
            if batch == batches - 1:
                worker.peaks.append(worker.ask(peak=True)["peak"])


def summary(worker: Worker, tokens: int) -> dict[str, Any]:
    """Return a worker's row: its best repeat, by the processor's time, and medians over repeats."""
    passes = [timing.Time(*map(sum, zip(*taken, strict=True))) for taken in worker.times.values()]
    best = min(passes, key=lambda taken: taken.cpu)
    shares = [worker.work / taken.cpu / peak for taken, peak in zip(passes, worker.peaks, strict=True)]
    middle = statistics.median(taken.cpu for taken in passes)
    return {
        "system": worker.name,
        "switches": worker.switches,
        "tokens_per_second": tokens / min(taken.wall for taken in passes),
        "useful_tokens_per_cpu_second": tokens / best.cpu,
        "median_tokens_per_cpu_second": tokens / middle,
        "useful_tokens": tokens,
        "seconds": best.wall,
        "cpu_seconds": best.cpu,
        "median_cpu_seconds": middle,
        "peak_fraction": statistics.median(shares),
        "peak_flops": max(worker.peaks),
        "memory_bytes": worker.ask(memory=True)["memory"],
        "parameters": worker.parameters,
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of the JSON."""
    with ExitStack() as stack:
        workers = start(arguments, stack)
        interleave(workers, arguments.repeats, arguments.batches)
        tokens = arguments.batches * arguments.batch * (arguments.source_tokens + arguments.target_tokens)
        rows = [summary(worker, tokens) for worker in workers]
    shared = {name: getattr(arguments, name) for name in (*SHARED, *Shape._fields)}
    shared |= {"torch": torch.__version__, "processor": timing.processor(torch.device("cpu"))}
    for row in rows:
        row["ratio"] = rows[0]["useful_tokens_per_cpu_second"] / row["useful_tokens_per_cpu_second"]
        row["median_ratio"] = rows[0]["median_tokens_per_cpu_second"] / row["median_tokens_per_cpu_second"]
    return [{**row, **shared} for row in rows]


def show(title: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title=title)
    for head in ("system", "switches"):
        table.add_column(head, no_wrap=True)
    for head in ("tokens/s", "a CPU s", "median", "CPU s", "peak", "MB", "ratio", "median"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        speeds = ("tokens_per_second", "useful_tokens_per_cpu_second", "median_tokens_per_cpu_second")
        shown = [f"{row[name]:.0f}" for name in speeds] + [f"{row['cpu_seconds']:.2f}", f"{row['peak_fraction']:.0%}"]
        ratios = f"{row['memory_bytes'] / 1e6:.0f}", f"{row['ratio']:.2f}", f"{row['median_ratio']:.2f}"
        table.add_row(row["system"], "ours" if row["switches"] else "default", *shown, *ratios)
    plain_console(width=120).print(table)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = options(__doc__, NUMBERS)
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="of the peers; s2s has none; default 0")
    parser.add_argument("--kernel", choices=KERNELS, help="of float32 products with our switches; default: the better")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), metavar="SYSTEM", help="default: all")
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES), help="default: both")
    return parser


def main(texts: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    arguments = parsed(parser(), texts, NUMBERS)
    torch.set_num_threads(arguments.threads)
    try:
        if wrong := [name for name in arguments.systems if name not in SYSTEMS]:
            raise UserError(f"--systems: no system '{wrong[0]}'{nearest(wrong[0], SYSTEMS)}")
        rows = measure(arguments)
        show(f"{rows[0]['processor']}, {arguments.precision}, threads: {arguments.threads}", rows)
        if arguments.json:
            timing.write(arguments.json, rows)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
