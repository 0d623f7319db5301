"""One system in a process of its own, for ``benchmark_decoding.py``: it decodes on request."""

import os
import sys
from functools import partial
from typing import Any

import _checkout  # noqa: F401
import torch

from benchmarks import timing
from benchmarks.decoders import DECODERS, Search
from benchmarks.floor import least_work
from benchmarks.peers import Shape
from benchmarks.training_worker import peak, serve


class SpeakingSystem:
    """A system and the sources that it decodes, for each size of batch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.precision, shape, search = settings["precision"], Shape(*settings["shape"]), Search(*settings["search"])
        torch.manual_seed(0)
        self.system = DECODERS[settings["system"]].build(shape, search, self.precision)
        self.sources: dict[int, list[list[int]]] = {}
        self.work: dict[int, float] = {}
        for batch, count in settings["plan"]:
            lengths = timing.ragged(timing.Sizes(batch, settings["source_tokens"], 2), count // batch)
            flat = lengths.reshape(-1, 2)
            self.sources[batch] = [source for source, _ in timing.random_pairs(flat, shape.vocabulary)]
            self.work[batch] = least_work(settings["system"], shape, search, flat[:, 0])

    def facts(self) -> dict[str, Any]:
        """Return the least work for the sources of each size of batch."""
        return {"work": list(self.work.items())}

    def answer(self, asked: dict[str, Any]) -> Any:
        """Seconds by the clock and of the processor for the sources (``decode``) or one batch of them (``warm``)."""
        if "peak" in asked:
            return {"peak": peak("bf16" if self.precision == "bf16" else "fp32")}
        batch = asked["decode"] if "decode" in asked else asked["warm"]
        sources = self.sources[batch] if "decode" in asked else self.sources[batch][:batch]
        return timing.timed(partial(self.system.decode, sources, batch), torch.device("cpu"))


if __name__ == "__main__":
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    serve(SpeakingSystem, sys.stdin, kept)
