"""What a recipe would train, tried without a run's folder: ``python -m s2s.train recipe=NAME --dry-run``."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from rich.console import Console
from rich.table import Table
from torch.optim import Optimizer

from s2s.batch import IGNORED, Batch, Counts, add, count
from s2s.console.terminal import plain_console
from s2s.data import Example
from s2s.data.batches import data_order, micro_batches, real_share, updates
from s2s.data.tokenised import TokenisedSplit
from s2s.heads.run_heads import labelling_of
from s2s.losses.passes import Passes
from s2s.machine.matmul import kernel, kernel_on
from s2s.machine.memory import enough_memory
from s2s.machine.precision import HALVES, choose_precision
from s2s.mitigations.base import PrefixMethod, StepContext
from s2s.objective import Objective
from s2s.randomness import Draws, forked_generators
from s2s.recipe.idle import idle_run
from s2s.recipe.recipe import Recipe
from s2s.runs import run_folder
from s2s.runs.run import load_model
from s2s.training.launch import read_launch, settle
from s2s.training.setup import changed_targets
from s2s.training.step import LESS
from s2s.vocabulary import Vocabulary

STEPS, SHOWN, MEBI = 2, 2, 2**20


class Trial(NamedTuple):
    """What a few updates of throw-away weights took."""

    seconds: float  # of the last update
    optimizer: int  # bytes
    activations: int  # bytes that the largest micro-batch keeps for its backward
    peak: int | None = None  # bytes that the GPU held at once


def rehearse(recipe: Recipe) -> None:
    """Print what would be trained: parameters, memory, updates, time, padding and examples as the model sees them.

    The weights are thrown away and the run's folder is neither read nor written, nor made.
    """
    recipe.to_yaml()  # refuses what a run's folder could not hold
    launch = read_launch(asked=recipe.run.device)
    run, notes = settle(recipe.run, launch)
    recipe = replace(recipe, run=run)
    if launch.process > 0:
        return  # one process shows what each would do
    console = plain_console()
    dataset = recipe.load_data()
    labels = recipe.labels(dataset)
    vocabulary = recipe.build_vocabulary(dataset)
    objective, report = recipe.build_objective(vocabulary, labels, load_model)
    device = torch.device(launch.device)
    precision = choose_precision(run.precision, launch.device, launch.precision)
    name, reason = kernel_on(device, run.tf32)
    objective.to(device)
    labelling = labelling_of(recipe.make_heads(labels), recipe.data)
    train, dev = (recipe.tokenise(dataset, vocabulary, split, labelling) for split in ("train", "dev"))
    data = [*dataset.report, *changed_targets(dataset, vocabulary), *train.report, *dev.report]
    for line in [*notes, precision.reason, *report, reason, *data, *idle_run(recipe), *_already(recipe)]:
        console.print(line)
    _show_parameters(console, objective, vocabulary)
    with kernel(name), enough_memory(lambda: f"an update of {run.tokens:,} tokens (run.tokens)", LESS):
        trial = _try(recipe, objective, vocabulary, train, _Way(device, launch.processes, precision.name))
    for line in [*_memory(objective, trial), *_schedule(recipe, train, trial)]:
        console.print(line)
    _show_examples(console, objective, vocabulary, dataset.train, train)
    console.print("This was a dry run: no run's folder was written.")


def _already(recipe: Recipe) -> list[str]:
    folder = Path(recipe.run.folder)
    return [f"{folder} holds a run; training would go on with it"] if run_folder.exists(folder) else []


def _show_parameters(console: Console, objective: Objective, vocabulary: Vocabulary) -> None:
    parts: Counter[str] = Counter()
    for name, parameter in objective.named_parameters():
        parts[".".join(name.split(".")[:2])] += parameter.numel()
    table = Table("part", "parameters", title=f"Parameters, for a vocabulary of {vocabulary.size} pieces")
    for name, number in [*parts.items(), ("all", parts.total())]:
        table.add_row(name, f"{number:,}")
    console.print(table)


class _Way(NamedTuple):
    """How the first of some processes computes."""

    device: torch.device
    processes: int
    precision: str


def _try(recipe: Recipe, objective: Objective, vocabulary: Vocabulary, train: TokenisedSplit, way: _Way) -> Trial:
    """A few updates as the first process would make them."""
    optimizer = recipe.optimizer.build(objective)
    places = islice(data_order(train.lengths(), recipe.run.tokens, recipe.run.seed, 0), STEPS)
    kept, seconds, gpu = Kept(objective), 0.0, way.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(way.device)
    with forked_generators(way.device):
        for step, place in enumerate(places):
            began = time.perf_counter()
            batches = micro_batches(place, train, vocabulary, way.processes, recipe.run.accumulate, 0, recipe.run.seed)
            _update(recipe, objective, optimizer, batches, step, kept, way)
            if gpu:
                torch.cuda.synchronize(way.device)  # until here the update was only asked for
            seconds = time.perf_counter() - began
    states = [value for state in optimizer.state.values() for value in state.values()]
    peak = torch.cuda.max_memory_allocated(way.device) if gpu else None
    return Trial(seconds, sum(_bytes(value) for value in states if isinstance(value, torch.Tensor)), kept.most, peak)


class Kept:
    """Counts what a forward keeps for its backward, the parameters not counted."""

    def __init__(self, objective: Objective) -> None:
        self.known = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
        self.storages: dict[int, int] = {}
        self.most = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def settle(self) -> None:
        """The forward is over."""
        self.most = max(self.most, sum(self.storages.values()))
        self.storages.clear()


def _update(
    recipe: Recipe,
    objective: Objective,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    step: int,
    kept: Kept,
    way: _Way,
) -> None:
    counts = add([count(batch) for batch in batches])
    kind = HALVES.get(way.precision)
    for batch in batches:
        hooks = torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor)
        with torch.autocast(way.device.type, kind, enabled=kind is not None), hooks:
            losses = objective(batch.to(way.device), step, Counts(*(unit.to(way.device) for unit in counts)))
        kept.settle()
        losses.total.backward()
    torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.run.clip)
    optimizer.step()
    optimizer.zero_grad()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _memory(objective: Objective, trial: Trial) -> Iterator[str]:
    weights = sum(map(_bytes, objective.parameters()))
    whole = 2 * weights + trial.optimizer + trial.activations
    if trial.peak is not None:
        yield f"memory of the GPU: {trial.peak / MEBI:,.0f} MiB at once in these updates, as torch counts it"
    yield (
        f"memory of a process: about {whole / MEBI:,.0f} MiB beside the libraries: weights {weights / MEBI:,.0f}, "
        f"gradients {weights / MEBI:,.0f}, optimizer {trial.optimizer / MEBI:,.0f}, "
        f"activations of a micro-batch {trial.activations / MEBI:,.0f}"
    )


def _schedule(recipe: Recipe, train: TokenisedSplit, trial: Trial) -> Iterator[str]:
    run, lengths = recipe.run, train.lengths()
    plan = updates(lengths, run.tokens, run.seed, 0)
    share, epochs = real_share(lengths, plan), run.steps / len(plan)
    yield f"an epoch has {len(plan)} updates of up to {run.tokens} columns; {share:.1%} of the columns are tokens"
    yield f"{run.steps} steps are {epochs:.2f} epochs, {run.steps * len(lengths) / len(plan):,.0f} examples"
    yield (
        f"an update took {trial.seconds:.2f} s: {run.steps} steps take about {run.steps * trial.seconds / 60:.1f} min "
        f"on this machine, evaluation and decoding not counted"
    )


def _show_examples(
    console: Console, objective: Objective, vocabulary: Vocabulary, examples: Sequence[Example], train: TokenisedSplit
) -> None:
    """The first examples: every column with its segment, piece and id, label and, where feeds edit it, what is read."""
    device = next(objective.parameters()).device
    for index, example in enumerate(examples[:SHOWN]):
        batch = train.batch(numpy.array([index]), vocabulary).to(device)
        title = f"Train example {index}: {example.source[:60]!r} -> {example.target[:60]!r}"
        table = Table("column", "segment", "reads", "id", "after feeds", "writes", "id", title=title)
        for row in _columns(vocabulary, batch, _fed(objective, batch)):
            table.add_row(*row)
        console.print(table)


def _fed(objective: Objective, batch: Batch) -> Batch:
    """The batch as the recipe's feeds leave it at their whole strength."""
    fed = batch
    with torch.no_grad():
        for name, method, prepared in objective.mitigations:
            if isinstance(method, PrefixMethod):
                passes = Passes(objective.model, objective.label_smoothing, objective)
                context = StepContext(passes, Draws(batch.seeds, name), count(batch), 0, 1.0, prepared)
                fed = method.feed(fed, context)
    return fed


def _columns(vocabulary: Vocabulary, batch: Batch, fed: Batch) -> Iterator[tuple[str, ...]]:
    source = batch.source[0].tolist()
    for column, id in enumerate(source):
        yield str(column), "0", vocabulary.piece(id), str(id), "", "", ""
    rows = zip(batch.target[0].tolist(), fed.target[0].tolist(), fed.labels[0].tolist(), strict=False)
    for column, (id, read, label) in enumerate(rows, start=len(source)):
        edited = "" if read == id else f"{vocabulary.piece(read)} ({read})"
        written = ("", "") if label == IGNORED else (vocabulary.piece(label), str(label))
        yield str(column), "1", vocabulary.piece(id), str(id), edited, *written
