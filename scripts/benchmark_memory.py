"""Memory and time of a training step with each kind of recomputation (``run.checkpointing``): ``--help`` lists options.

All examples are equally long. Memory is that of parameters, optimizer and the most of other tensors that live at one
time during a step; activations are what lives once the loss is computed and its backward has not begun, the loss's own
scores among them. ``fits`` is the largest batch found whose step takes no more memory than one of ``--batch`` examples
does without recomputation. Times are medians over rounds in which all rows take turns; a ratio is that to no
recomputation with a batch of the same size, in the same round.

``--large`` adds a step of a model of 300 million parameters with AdaFactor, bfloat16 and recomputation of blocks in a
process of its own, and the most memory that it held (``benchmark_large.py``).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _checkout  # noqa: F401
import torch
from benchmarks import timing
from benchmarks.options import options, parsed
from benchmarks.recomputation import CPU, Trainer, largest
from benchmarks.timing import Time
from rich.table import Table

from s2s.console.terminal import plain_console
from s2s.errors import UserError, nearest
from s2s.machine.paths import KERNELS, kernel
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.runs.paths import faster_kernel

NUMBERS = {
    "threads": 1,
    "rounds": 3,
    "batch": 48,
    "tries": 4,
    "source_tokens": 224,
    "target_tokens": 32,
    "vocabulary": 8000,
    "width": 256,
    "layers": 12,
    "heads": 4,
}
"""Options that are whole numbers, and their defaults."""
SHARED = ("precision", "kernel", "threads", "rounds", "source_tokens", "target_tokens")
"""The options that every row of the JSON bears."""
SHAPE = ("vocabulary", "width", "layers", "heads", "dropout")
"""And those that fix the model."""
MODES = ("none", "block", "selective")
"""The kinds of recomputation that help a processor."""


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the JSON's rows: each kind of recomputation with each size of batch, then with the largest that fits."""
    trainer, sizes = Trainer(arguments), sorted({*arguments.sizes, arguments.batch})
    peaks = {mode: {rows: trainer.peak(mode, rows) for rows in sizes} for mode in arguments.modes}
    limit = peaks["none"][arguments.batch]
    fits = {mode: largest(partial(trainer.peak, mode), limit, peaks[mode], arguments.tries) for mode in arguments.modes}
    works = {f"{mode} {rows}": partial(_ignoring_round, trainer, mode, rows) for rows in sizes for mode in peaks}
    times = timing.interleaved(works, arguments.rounds, 1, CPU)
    fitting = [
        _row(trainer, mode, rows, (times[f"{mode} {rows}"], times[f"none {rows}"]))
        | {"memory_bytes": peaks[mode][rows], "fits": fits[mode], "limit_bytes": limit}
        for mode in arguments.modes
        for rows in sizes
    ]
    shared = {name: getattr(arguments, name) for name in (*SHARED, *SHAPE)}
    shared |= {"torch": torch.__version__, "processor": timing.processor(CPU)}
    return [{"system": "s2s", **row, **shared} for row in fitting]


def _row(trainer: Trainer, mode: str, rows: int, times: tuple[list[Time], list[Time]]) -> dict[str, Any]:
    """Time a kind of recomputation and none, and measure the activations that both keep."""
    recomputed, plain = times
    kept, whole = (trainer.activations(name, rows) for name in (mode, "none"))
    return {
        "checkpointing": mode,
        "batch": rows,
        "activation_bytes": kept,
        "activation_ratio": kept / whole,
        "seconds_a_sample": statistics.median(time.wall for time in recomputed) / rows,
        "cpu_seconds_a_sample": statistics.median(time.cpu for time in recomputed) / rows,
        "time_ratio": statistics.median(time.cpu / other.cpu for time, other in zip(recomputed, plain, strict=True)),
    }


def _ignoring_round(trainer: Trainer, mode: str, rows: int, number: int) -> None:  # noqa: ARG001
    trainer.step(mode, rows)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("recomputation", title=title)
    heads = ("batch", "MB", "activations MB", "ratio", "ms a sample", "CPU ms", "CPU ratio", "fits")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        memory = f"{row['memory_bytes'] / 1e6:.0f}", f"{row['activation_bytes'] / 1e6:.0f}"
        times = f"{1000 * row['seconds_a_sample']:.1f}", f"{1000 * row['cpu_seconds_a_sample']:.1f}"
        ratios = f"{row['activation_ratio']:.2f}", f"{row['time_ratio']:.2f}"
        table.add_row(row["checkpointing"], str(row["batch"]), *memory, ratios[0], *times, ratios[1], str(row["fits"]))
    plain_console(width=120).print(table)


def large(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the row of the large model, from its own process."""
    script = Path(__file__).with_name("benchmark_large.py")
    command = [sys.executable, str(script), "--precision", arguments.large_precision]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{script.name} ended with code {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout)
    print(f"{row['parameters'] / 1e6:.0f}M parameters, {row['precision']}: {row['memory_bytes'] / 1e9:.2f} GB at most")
    return row


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = options(__doc__, NUMBERS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16], help="further sizes of a batch; default 16")
    parser.add_argument("--modes", nargs="+", default=list(MODES), metavar="KIND", help="default: all but offload")
    parser.add_argument("--kernel", choices=KERNELS, help="of float32 products; default: the better one")
    parser.add_argument("--large", action="store_true", help="a step of a model of 300 million parameters too")
    parser.add_argument("--large-precision", choices=("fp32", "bf16"), default="bf16", help="default bf16")
    return parser


def main(texts: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    arguments = parsed(parser(), texts, NUMBERS)
    torch.set_num_threads(arguments.threads)
    arguments.kernel = arguments.kernel or faster_kernel()
    try:
        if wrong := [mode for mode in arguments.modes if mode not in CHECKPOINTING]:
            raise UserError(f"--modes: no kind '{wrong[0]}'{nearest(wrong[0], CHECKPOINTING)}")
        arguments.modes = list(dict.fromkeys(["none", *arguments.modes]))
        with kernel(arguments.kernel):
            rows = measure(arguments)
        show(f"{rows[0]['processor']}, {arguments.precision}, threads: {arguments.threads}", rows)
        rows += [large(arguments)] if arguments.large else []
        if arguments.json:
            timing.write(arguments.json, rows)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
