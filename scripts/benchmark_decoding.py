"""Decoding with beam search of this project and of its peers, on the same sources: ``--help`` lists the options.

Each system runs in a process of its own, by itself for each precision, and all take turns in an order that rotates.
A round decodes all sources with each size of batch; hypotheses must have exactly ``--tokens`` tokens. Sources of like
length are neighbours, as in a long list that was sorted, for all systems. bert4torch takes one source at a time. At
batch 1 a quarter of the sources is decoded.

CPU seconds are of all threads; rows have medians over rounds. The floor is the least work by formula (``least_work`` in
``benchmarks/floor.py``) over the speed of a large matrix product in the same process, of float32 for int8. ``ratio``
is the CPU time a source over that of ``s2s`` in float32, with batches of the same size, in the same round; for
bert4torch, which has no batches, it is given against each size.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import _checkout  # noqa: F401
import torch
from benchmarks import timing
from benchmarks.decoders import DECODERS, Search
from benchmarks.decoding_rows import Runner, compare, show, summary
from benchmarks.options import numbered, parsed
from benchmarks.peers import Shape
from rich.progress import track

from s2s.console.terminal import plain_console
from s2s.errors import UserError, nearest
from s2s.machine.paths import KERNELS
from s2s.runs.paths import faster_kernel

NUMBERS = {
    "threads": 1,
    "rounds": 3,
    "sources": 64,
    "source_tokens": 180,
    "beams": 4,
    "tokens": 32,
    "vocabulary": 8000,
    "width": 256,
    "layers": 6,
    "heads": 4,
}
"""Options that are whole numbers, and their defaults."""
SHARED = ("threads", "rounds", "source_tokens", "beams", "tokens", "vocabulary", "width", "layers", "heads")
"""The options that every row of the JSON bears."""


def plan(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Return the sizes of batches, and how many sources are decoded with each."""
    sizes = [(batch, arguments.sources if batch > 1 else -(-arguments.sources // 4)) for batch in arguments.batches]
    for batch, count in sizes:
        if count % batch or count // batch > timing.BUCKET:
            most = timing.BUCKET
            raise UserError(f"--sources: {count} are not 1 .. {most} batches of {batch}; see --batches")
    return sizes


def start(arguments: argparse.Namespace, stack: ExitStack) -> list[Runner]:
    """Return a runner for each system and precision; what is not installed is named and left out."""
    sizes, s2s_kernel, runners = plan(arguments), arguments.kernel or faster_kernel(), list[Runner]()
    positions = timing.SPREAD["source"][1] * arguments.source_tokens + arguments.tokens + 2
    shape = Shape(
        arguments.vocabulary, arguments.width, arguments.layers, arguments.heads, int(positions), dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip
    shared = {"threads": arguments.threads, "shape": shape, "search": Search(arguments.beams, arguments.tokens)}
    for name in dict.fromkeys(arguments.systems):
        row = DECODERS[name]
        row_sizes = [size for size in sizes if row.batches or size[0] == 1] or [(1, -(-arguments.sources // 4))]
        for precision in (name for name in row.precisions if name in arguments.precisions):
            kernel = s2s_kernel if name == "s2s" else "default"
            settings = {**shared, "source_tokens": arguments.source_tokens, "plan": row_sizes, "kernel": kernel}
            runner = stack.enter_context(Runner(name, precision, settings))
            if runner.missing:
                print(f"{name}: left out: {runner.missing}", file=sys.stderr)
                break
            runners.append(runner)
    return runners


def interleave(runners: Sequence[Runner], rounds: int) -> Iterator[None]:
    """Decode a batch of each size that does not count, then the rounds, with a pause after each."""
    for runner in runners:
        for batch in runner.taken:
            runner.ask(warm=batch)
    for number in track(range(rounds), "rounds", console=plain_console(stderr=True), transient=True):
        for batch in dict.fromkeys(batch for runner in runners for batch in runner.taken):
            able = [runner for runner in runners if batch in runner.taken]
            first = number % len(able)
            for runner in (*able[first:], *able[:first]):
                runner.run(batch)
        yield


def measure(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the JSON, after each round."""
    counts = {1: -(-arguments.sources // 4), **dict(plan(arguments))}
    shared = {name: getattr(arguments, name) for name in SHARED}
    shared |= {"torch": torch.__version__, "processor": timing.processor(torch.device("cpu"))}
    with ExitStack() as stack:
        runners = start(arguments, stack)
        for _ in interleave(runners, arguments.rounds):
            rows = [summary(runner, batch, counts[batch]) for runner in runners for batch in runner.taken]
            compare(rows)
            yield [{**row, **shared} for row in rows]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = numbered(__doc__, NUMBERS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="sources at a time; default 1 32")
    parser.add_argument("--kernel", choices=KERNELS, help="of our float32 products; default: the better one")
    parser.add_argument("--systems", nargs="+", default=list(DECODERS), metavar="SYSTEM", help="default: all")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16", "int8"), default=["fp32", "bf16", "int8"],
        help="where a system has them; default: all",
    )  # fmt: skip
    return parser


def main(texts: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    arguments = parsed(parser(), texts, NUMBERS)
    torch.set_num_threads(arguments.threads)
    try:
        if wrong := [name for name in arguments.systems if name not in DECODERS]:
            raise UserError(f"--systems: no system '{wrong[0]}'{nearest(wrong[0], DECODERS)}")
        if min(arguments.batches) < 1:
            raise UserError(f"--batches: {min(arguments.batches)} is not at least 1")
        for rows in measure(arguments):
            if arguments.json:  # a run that is stopped leaves the rounds that it has
                timing.write(arguments.json, rows)
        show(f"{timing.processor(torch.device('cpu'))}, threads: {arguments.threads}", rows)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
