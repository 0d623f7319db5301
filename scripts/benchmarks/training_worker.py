"""One system in a process of its own, for ``benchmark_training.py``: it steps on request.

Switches of the memory allocator hold from the start of a process on, so each system with each switch has its own. The
first line of standard input holds the settings; each further line asks for one thing, and each answer is a line.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TextIO

import _checkout  # noqa: F401
import numpy
import torch

from benchmarks import timing
from benchmarks.peers import Pairs, Shape
from benchmarks.processes import resident_peak
from benchmarks.systems import SYSTEMS, optimizer, step, useful_work
from s2s.machine.paths import KERNELS, kernel

PRODUCT = 1024
"""Rows and columns of the matrices whose product is the peak's measure: they and the result fit into a cache."""
PRODUCTS = 10
"""How often they are multiplied with each kernel; the best time counts."""


def peak(precision: str) -> float:
    """Floating-point operations of a matrix product in a second of the processor, with the better kernel."""
    number = torch.bfloat16 if precision == "bf16" else torch.float32
    x, y = torch.randn(2, PRODUCT, PRODUCT, generator=torch.Generator().manual_seed(0)).to(number)
    best = float("inf")
    for _ in range(PRODUCTS):
        for name in KERNELS:
            with kernel(name):
                start = time.process_time()
                torch.mm(x, y)
                best = min(best, time.process_time() - start)
    return 2 * PRODUCT**3 / best


def plan(lengths: timing.Lengths, bucketed: bool) -> timing.Lengths:
    """Return the same examples, [batches, B] of their numbers: in their own order, by length, or in a random order."""
    numbers = numpy.arange(lengths.shape[0] * lengths.shape[1])
    order = numbers if bucketed else numpy.random.default_rng(1).permutation(numbers)
    return order.reshape(lengths.shape[:2])


class Stepper:
    """A system with its optimizer and its batches."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.precision = settings["precision"]
        lengths = timing.ragged(timing.Sizes(*settings["sizes"]), settings["batches"])
        shape = Shape(*settings["shape"])
        pairs = timing.random_pairs(lengths.reshape(-1, 2), shape.vocabulary)
        build, bucketed = SYSTEMS[settings["system"]]
        self.batches: list[Pairs] = [[pairs[number] for number in numbers] for numbers in plan(lengths, bucketed)]
        self.work = useful_work(settings["system"], shape, lengths.reshape(-1, 2))
        torch.manual_seed(0)
        self.system = build(shape)
        self.system.model.train()
        self.optimizer = optimizer(self.system)

    def facts(self) -> dict[str, Any]:
        """Return the system's description and its useful work in a pass over all batches."""
        parameters = sum(parameter.numel() for parameter in self.system.model.parameters())
        return {"parameters": parameters, "work": self.work}

    def answer(self, asked: dict[str, Any]) -> Any:
        """Seconds by the clock and of the processor for a step, or a measure."""
        if "step" in asked:
            work = partial(step, self.system, self.optimizer, self.batches[asked["step"]], self.precision)
            return timing.timed(work, torch.device("cpu"))
        return {"peak": peak(self.precision)} if "peak" in asked else {"memory": resident_peak()}


class Answering(Protocol):
    """A system in its process."""

    def facts(self) -> dict[str, Any]:
        """Return the system's description."""

    def answer(self, asked: dict[str, Any]) -> Any:
        """Return the answer to a request."""


def serve(build: Callable[[dict[str, Any]], Answering], questions: TextIO, answers: TextIO) -> None:
    """Answer until the questions end."""
    settings = json.loads(questions.readline())
    torch.set_num_threads(settings["threads"])
    with kernel(settings["kernel"]):
        try:
            system = build(settings)
        except ImportError as error:
            print(json.dumps({"missing": str(error)}), file=answers, flush=True)
            return
        print(json.dumps(system.facts()), file=answers, flush=True)
        for line in questions:
            print(json.dumps(system.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    serve(Stepper, sys.stdin, kept)
