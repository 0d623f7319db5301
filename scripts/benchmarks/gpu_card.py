"""The card under test: sizes of the measurements, what checks share, and a model that trains as a run does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from torch.nn import Module

from benchmarks.decoders import Ids
from benchmarks.timing import Lengths, ragged, random_pairs
from benchmarks.timing import Sizes as BatchSizes
from s2s.data.tokenised import TokenisedSplit
from s2s.machine.paths import computing
from s2s.machine.precision import HALVES, Precision
from s2s.model import Architecture, PrefixTransformer
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import RunMetadata
from s2s.training.ahead import ahead
from s2s.training.setup import Prepared, check_processes, wrap
from s2s.training.state import State
from s2s.training.step import MadeUpdate, made_updates, update

DEVICE = torch.device("cuda")
PRECISIONS = ("fp32", *HALVES)
WAYS = {"products": "tf32"}
"""How runs compute float32 products on a GPU, unless ``run.tf32`` is false."""


class Row(NamedTuple):
    """A line of the table: what was done, and what came of it."""

    case: str
    result: str


Rows = Iterator[Row]


@dataclass(frozen=True)
class Sizes:
    """The model, its texts (mean tokens), the updates (tokens), and how often and how long things run."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 30_000
    source: int = 180
    target: int = 20
    updates: tuple[int, ...] = (4096, 65_536)
    rounds: int = 10
    product: int = 8192
    new_tokens: int = 64
    batches: tuple[int, ...] = (1, 32)
    rows: int = 32

    @property
    def longest(self) -> int:
        """Positions that the longest pair of texts needs."""
        return 2 * (self.source + self.target) + self.new_tokens

    def lengths(self) -> Lengths:
        """Return the lengths [N, 2] of the examples of two updates and more."""
        examples = 4 * max(self.updates) // (self.source + self.target) + self.rows
        lengths = ragged(BatchSizes(-(-examples // 64), self.source, self.target), 64)
        return lengths.reshape(-1, 2)


SMALL = Sizes(1, 16, 2, 60, 9, 4, (64, 128), 1, 32, 3, (1, 2), 3)


@dataclass
class Card:
    """The state that checks share: sizes, a folder, and the measured peak of each precision in operations a second."""

    sizes: Sizes
    folder: Path
    peaks: dict[str, float] = field(default_factory=dict)

    def model(self, dropout: float = 0.0) -> PrefixTransformer:
        """Return the model on the GPU, always with the same weights."""
        sizes = self.sizes
        shape = {name: getattr(sizes, name) for name in ("vocabulary", "width", "layers", "heads")}
        model = PrefixTransformer(
            Architecture(**shape, feed_forward=4 * sizes.width, positions=sizes.longest, dropout=dropout)
        )
        torch.manual_seed(0)
        initialise(model)
        return model.to(DEVICE)


class Trainer:
    """The loop of ``s2s.train`` without its folder: the same updates, by the same functions."""

    def __init__(self, card: Card, precision: str, tokens: int, accumulate: int, compiled: bool = False) -> None:
        run = {"tokens": tokens, "precision": precision, "accumulate": accumulate, "folder": card.folder / "steps"}
        recipe = Recipe.load("toy_copy", [f"run.{key}={value}" for key, value in run.items()])
        accelerator: Accelerator = check_processes(recipe)
        model = card.model(dropout=0.1)
        model.compile_blocks(compiled)
        objective = Objective(model, ObjectiveSettings())
        sources, targets = zip(*random_pairs(card.sizes.lengths(), card.sizes.vocabulary), strict=True)
        split = TokenisedSplit(list(sources), list(targets), [])
        metadata = RunMetadata(model.shape, "", WAYS["products"], 1, precision, {}, [])
        scaled = Precision(cast(Any, precision), DEVICE.type)
        # A data set is not asked for: the examples are ids already.
        vocabulary, dataset = Ids(card.sizes.vocabulary), cast(Any, None)
        self.prepared = Prepared(recipe, accelerator, vocabulary, dataset, split, split, metadata, scaled)
        self.state = State(recipe.run, objective, recipe.optimizer.build(objective), scaled, None)
        self.wrapped: Module = wrap(self.prepared, objective)

    @contextmanager
    def steps(self) -> Iterator[Callable[[], dict[str, Any]]]:
        """Give a function that makes one update, with the batches made ahead as in a run."""
        with computing(WAYS), ahead(made_updates(self.prepared, 0), True) as made:
            yield partial(self._step, made)

    def _step(self, made: Iterator[MadeUpdate]) -> dict[str, Any]:
        return update(self.prepared, self.wrapped, self.state, next(made))


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the mean time of some work on the GPU, after one time that does not count."""
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / rounds


def apart(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Return the distance of the second tensors from the first ones, over the norm of these, all as one vector."""
    truth, other = (torch.cat([part.detach().double().cpu().flatten() for part in parts]) for parts in (first, second))
    return float((other - truth).norm() / truth.norm())
