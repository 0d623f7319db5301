"""Shared by benchmarks: ragged batches, interleaved timing, peak memory, and results as a table and as JSON."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from s2s.batch import Batch, collate
from s2s.console.terminal import plain_console
from s2s.data.batches import BUCKET, by_length
from s2s.errors import UserError
from s2s.files.atomic import write_atomically
from s2s.machine import worker_pool

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints when it starts and stops

PADDING, BEGIN, END, PLAIN = 0, 1, 2, 3
"""The special ids of random batches, and the first id of their texts."""
SPREAD = {"source": (0.58, 1.42), "target": (0.4, 1.6)}
"""The shortest and the longest length as a share of the mean: 104 .. 256 of 180 and 8 .. 32 of 20."""

Lengths = NDArray[numpy.int64]


class Sizes(NamedTuple):
    """Rows of a batch and mean tokens: of a source with begin and end, of a target with its end."""

    batch: int
    source: int
    target: int


class Time(NamedTuple):
    """Seconds by the clock and of the processor, all threads added."""

    wall: float
    cpu: float


def ragged(sizes: Sizes, batches: int) -> Lengths:
    """Source and target lengths [batches, B, 2], uniform around means that they keep exactly; always the same.

    As in the trainer, the lengths of 64 batches are sorted together and cut; the batches returned are taken at even
    distances among those, from short to long.
    """
    if min(sizes) < 1 or min(sizes.source, sizes.target) < 2:
        raise UserError("sizes: a batch needs a row, a source and a target two tokens")
    if not 1 <= batches <= BUCKET:
        raise UserError(f"--batches: {batches} is not in 1 .. {BUCKET}")
    random = numpy.random.default_rng(0)
    bounds = [_bounds(sizes.source, "source"), _bounds(sizes.target, "target")]
    drawn = [random.integers(low, high, BUCKET * sizes.batch, endpoint=True) for low, high in bounds]
    lengths = numpy.stack(drawn, axis=1)
    pool = lengths[by_length(lengths)].reshape(BUCKET, sizes.batch, 2)
    picked = pool[(2 * numpy.arange(batches) + 1) * BUCKET // (2 * batches)]
    for side, (low, high) in enumerate(bounds):
        picked[..., side] = _adjusted(picked[..., side], sizes[1 + side], low, high, random)
    return picked


def _bounds(mean: int, side: str) -> tuple[int, int]:
    low, high = SPREAD[side]
    return max(2, round(low * mean)), round(high * mean)


def _adjusted(lengths: Lengths, mean: int, low: int, high: int, random: numpy.random.Generator) -> Lengths:
    """Return the lengths with single tokens added or taken, here and there, until their mean is exact."""
    flat = lengths.flatten()
    while missing := mean * flat.size - int(flat.sum()):
        movable = numpy.flatnonzero(flat < high if missing > 0 else flat > low)
        flat[random.permutation(movable)[: abs(missing)]] += numpy.sign(missing)
    return flat.reshape(lengths.shape)


def random_pairs(lengths: Lengths, vocabulary: int) -> list[tuple[list[int], list[int]]]:
    """Examples of random ids with the given lengths [N, 2]: source with begin and end, target with neither."""
    random, span = numpy.random.default_rng(0), (PLAIN, vocabulary)
    return [
        ([BEGIN, *random.integers(*span, source - 2).tolist(), END], random.integers(*span, target - 1).tolist())
        for source, target in lengths
    ]


def random_batch(lengths: Lengths, vocabulary: int) -> Batch:
    """Return a batch of random ids with the given lengths [B, 2]."""
    return collate(random_pairs(lengths, vocabulary), PADDING, END)


def interleaved(
    works: Mapping[str, Callable[[int], object]], rounds: int, warmup: int, device: torch.device
) -> dict[str, list[Time]]:
    """Return the times of each work in each round; what ran in the rounds of the warm-up does not count.

    A round runs every work once and gives it the round's number; the next round starts with the next work. So slow
    changes of the machine's speed meet all works alike.
    """
    names, times = list(works), {name: list[Time]() for name in works}
    for number in track(range(-warmup, rounds), "rounds", console=plain_console(stderr=True), transient=True):
        first = number % len(names)
        taken = {name: timed(partial(works[name], number), device) for name in names[first:] + names[:first]}
        for name in names if number >= 0 else ():
            times[name].append(taken[name])
    return times


def timed(work: Callable[[], object], device: torch.device) -> Time:
    """Return the time of some work, what a GPU was asked to do included."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait()
    return Time(time.perf_counter() - wall, time.process_time() - cpu)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes of tensors that live at one time during some work, beyond those that lived before it.

    By the counters of torch's allocator on a GPU, and by its record of every allocation and release on CPU; scratch
    memory that the libraries of matrix products take for themselves is not in it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    assert record.profiler is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate((event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), initial=0))


def resting_bytes(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the parameters and of the optimizer's state."""
    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in (*module.parameters(), *state))


def summarised(times: Mapping[str, Sequence[Time]], memory: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return a row a work: medians over rounds; ratios of times are medians of ratios to the first work in a round."""
    rows, first = [], next(iter(times))
    for name, taken in times.items():
        pairs = list(zip(taken, times[first], strict=True))
        ratios = [time.wall / base.wall for time, base in pairs]
        rows.append(
            {
                "name": name,
                "seconds": statistics.median(time.wall for time in taken),
                "cpu_seconds": statistics.median(time.cpu for time in taken),
                "rounds": len(taken),
                "time_ratio": statistics.median(ratios),
                "time_ratio_min": min(ratios),
                "time_ratio_max": max(ratios),
                "cpu_ratio": statistics.median(time.cpu / base.cpu for time, base in pairs),
                "memory_ratio": memory[name] / memory[first],
                "memory_bytes": memory[name],
            }
        )
    return rows


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("row", title=title)
    for head in ("ms", "CPU ms", "time ratio", "min .. max", "CPU ratio", "MB", "memory ratio"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        times = f"{1000 * row['seconds']:.1f}", f"{1000 * row['cpu_seconds']:.1f}", f"{row['time_ratio']:.2f}"
        spread = f"{row['time_ratio_min']:.2f} .. {row['time_ratio_max']:.2f}", f"{row['cpu_ratio']:.2f}"
        memory = f"{row['memory_bytes'] / 1e6:.0f}", f"{row['memory_ratio']:.2f}"
        table.add_row(row["name"], *times, *spread, *memory)
    plain_console(width=120).print(table)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as one list."""
    write_atomically(path, json.dumps(rows, indent=1) + "\n")


def processor(device: torch.device) -> str:
    """Return the name of what computes: the GPU's, or the processor's as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return worker_pool.processor()
