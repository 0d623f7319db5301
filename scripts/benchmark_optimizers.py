"""Time and state of optimizers over parameters of BERT-base's shapes, with fixed gradients.

One thread unless told otherwise: python scripts/benchmark_optimizers.py [--rounds 9] [--json FILE]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _checkout  # noqa: F401
import torch
from benchmarks.options import output_file
from benchmarks.timing import interleaved, processor, show, summarised, write
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.optimization import Adafactor as TransformersAdafactor

from s2s.optim import Adafactor

RATE = 1e-4
CPU = torch.device("cpu")
Build = Callable[[list[nn.Parameter]], Optimizer]
SYSTEMS: dict[str, tuple[str, Build]] = {
    "AdamW, fused": ("torch", partial(torch.optim.AdamW, lr=RATE, fused=True)),
    "Adafactor, given rate": ("s2s", partial(Adafactor, lr=RATE, relative_step=False)),
    "Adafactor, bf16 momentum": ("s2s", partial(Adafactor.big_vision, lr=RATE)),
    "Adafactor": ("torch", partial(torch.optim.Adafactor, lr=RATE)),
    "Adafactor with a given rate": ("transformers", partial(TransformersAdafactor, lr=RATE, relative_step=False)),
}


def shapes(layers: int, width: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Return the shapes of a BERT encoder: embeddings with their norm, then the layers' projections, norms, biases."""
    inner = 4 * width
    layer: list[tuple[int, ...]] = [(width, width)] * 4 + [(inner, width), (width, inner), (inner,)] + [(width,)] * 9
    return [(vocabulary, width), (512, width), (2, width), (width,), (width,), *layer * layers]


def build(make: Build, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Optimizer:
    """Return an optimizer over parameters with gradients; all optimizers share these tensors."""
    parameters = [nn.Parameter(weight) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return make(parameters)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the tensors of an optimizer's state."""
    return sum(value.nbytes for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))


def measure(sizes: Sequence[tuple[int, ...]], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each optimizer; its ratios are to the first one, torch's fused AdamW."""
    torch.manual_seed(0)
    weights = [0.02 * torch.randn(size) for size in sizes]
    gradients = [1e-3 * torch.randn(size) for size in sizes]
    optimizers = {name: build(make, weights, gradients) for name, (_, make) in SYSTEMS.items()}
    works = {name: partial(_step, optimizer) for name, optimizer in optimizers.items()}
    times = interleaved(works, rounds, 2, CPU)
    rows = summarised(times, {name: state_bytes(optimizer) for name, optimizer in optimizers.items()})
    facts = {"precision": "fp32", "threads": torch.get_num_threads(), "parameters": sum(map(torch.numel, weights))}
    versions = {"torch": torch.__version__, "processor": processor(CPU)}
    return [
        {"system": SYSTEMS[row["name"]][0], **row, "state_bytes": row["memory_bytes"], **facts, **versions}
        for row in rows
    ]


def _step(optimizer: Optimizer, round_number: int) -> None:  # noqa: ARG001
    optimizer.step()


def main(arguments: Sequence[str]) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--json", type=output_file)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = measure(shapes(options.layers, options.width, options.vocabulary), options.rounds)
    shown = [row | {"name": f"{row['system']}: {row['name']}"} for row in rows]
    show(f"{rows[0]['parameters'] / 1e6:.0f}M parameters, {options.threads} thread(s); MB is the state", shown)
    if options.json:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
