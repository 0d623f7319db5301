"""A trainer whose batch and recomputation can be set for each step, what it takes, and the largest batch that fits."""

import argparse
from collections.abc import Callable
from functools import partial

import numpy
import torch
from benchmark_mitigations import build, step
from torch.profiler import ProfilerActivity, profile

from benchmarks import timing
from s2s.batch import Batch
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import AdamW

CPU = torch.device("cpu")


class Trainer:
    """A model, its optimizer at rate 0, and steps of it with any batch and kind of recomputation."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.model = build(arguments, arguments.source_tokens + arguments.target_tokens)
        self.objective = Objective(self.model, ObjectiveSettings())
        self.optimizer = AdamW(rate=0.0).build(self.model)
        self.step("none", 1)  # the optimizer's state
        self.resting = timing.resting_bytes(self.model, self.optimizer)

    def step(self, mode: str, rows: int) -> None:
        """One training step."""
        batch = self._batch(mode, rows)
        step(self.objective, self.optimizer, batch, self.arguments.precision)

    def peak(self, mode: str, rows: int) -> int:
        """Bytes of a step at its worst, parameters and optimizer included."""
        return self.resting + timing.peak_bytes(partial(self.step, mode, rows), CPU)

    def activations(self, mode: str, rows: int) -> int:
        """Bytes that live between forward and backward."""
        batch = self._batch(mode, rows)
        recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.arguments.precision == "bf16")
        with recorded as record, half:
            losses = self.objective(batch)
        assert record.profiler is not None
        assert losses.total.grad_fn is not None
        events = record.profiler.kineto_results.events()
        return sum(event.nbytes() for event in events if event.name() == "[memory]")

    def _batch(self, mode: str, rows: int) -> Batch:
        """Return a batch of equally long examples, with the model told what to keep of it."""
        self.model.keep(mode, 1)
        lengths = numpy.tile((self.arguments.source_tokens, self.arguments.target_tokens), (rows, 1))
        return timing.random_batch(lengths, self.arguments.vocabulary)


def largest(peak: Callable[[int], int], limit: int, known: dict[int, int], tries: int) -> int:
    """Return the largest number of rows whose peak is within the limit, as far as ``tries`` measurements show.

    ``known`` are peaks of two or more numbers of rows, the least of which fits; they grow about linearly.
    """
    known = dict(known)
    for _ in range(tries):
        low = max(rows for rows, size in known.items() if size <= limit)
        above = [rows for rows, size in known.items() if size > limit]
        near, other = sorted(known, key=lambda rows: abs(rows - low))[:2]
        slope = (known[near] - known[other]) / (near - other)
        guess = max(low + 1, low + int((limit - known[low]) / slope))
        guess = min([guess, *(rows - 1 for rows in above)])
        if guess <= low:
            break
        known[guess] = peak(guess)
    return max(rows for rows, size in known.items() if size <= limit)
