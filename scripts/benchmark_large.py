"""One training step of a model of about 300 million parameters with AdaFactor: a row of JSON on standard output.

24 layers of width 1024, recomputation of blocks, and by default bfloat16 activations; memory is the most that the
process held, libraries included, over two steps: the optimizer's state comes with the first.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import _checkout  # noqa: F401
import numpy
import torch
from benchmark_mitigations import build, step
from benchmarks import timing
from benchmarks.processes import resident_peak

from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import AdafactorSettings

NUMBERS = {
    "threads": 1,
    "batch": 1,
    "source_tokens": 56,
    "target_tokens": 8,
    "vocabulary": 8000,
    "width": 1024,
    "layers": 24,
    "heads": 16,
}
"""Options that are whole numbers, and their defaults: a model of 311 million parameters."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in NUMBERS.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    options.add_argument("--dropout", type=float, default=0.1, help="default 0.1")
    options.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16")
    return options


def main(texts: Sequence[str]) -> int:
    """Run the steps and print the row."""
    arguments = parser().parse_args(texts)
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments)))
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the row: memory, and seconds of the second step."""
    longest = arguments.source_tokens + arguments.target_tokens
    model = build(arguments, longest)
    model.keep("block", 1)
    objective, optimizer = Objective(model, ObjectiveSettings()), AdafactorSettings().build(model)
    lengths = numpy.tile((arguments.source_tokens, arguments.target_tokens), (arguments.batch, 1))
    batch = timing.random_batch(lengths, arguments.vocabulary)
    for _ in range(2):
        start = time.process_time()
        step(objective, optimizer, batch, arguments.precision)
        seconds = time.process_time() - start
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"parameters": parameters, "memory_bytes": resident_peak(), "cpu_seconds": seconds}
    return {"system": "s2s", "checkpointing": "block", "optimizer": "adafactor", **facts, **vars(arguments)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
