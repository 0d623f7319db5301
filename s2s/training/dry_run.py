"""A dry run: what a recipe would train, without a run's folder (``python -m s2s.train recipe=NAME --dry-run``)."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from s2s.batch import IGNORED, Batch, count
from s2s.console.terminal import plain_console
from s2s.data.batches import UpdateBatch, data_order, deal, real_share, updates
from s2s.losses.passes import Passes
from s2s.machine.memory import enough_memory
from s2s.machine.paths import computing
from s2s.mitigations.base import PrefixMethod, StepContext
from s2s.objective import Objective
from s2s.randomness import Draws, forked_generators
from s2s.recipe import build
from s2s.recipe.idle import idle_run
from s2s.recipe.recipe import Recipe
from s2s.runs import run_folder
from s2s.training.launch import read_launch, settle
from s2s.training.setup import Prepared, is_sharded, load_data, new_run, precision_of, start_accelerator, tokenise
from s2s.training.state import State
from s2s.training.step import LESS, make, unguarded_update
from s2s.vocabulary import Vocabulary

# Two updates: the first one also allocates the optimizer's state, so only the second one's time counts.
STEPS, EXAMPLES, MEBI = 2, 2, 2**20


def rehearse(recipe: Recipe) -> None:
    """Print what would be trained: parameters, memory, updates, time, padding and examples as the model reads them.

    The weights are thrown away; the run's folder is neither read nor written.
    """
    recipe.to_yaml()  # refuses values that a run's folder could not hold
    launch = read_launch(asked=recipe.run.device)
    run, notes = settle(recipe.run, launch)
    recipe = replace(recipe, run=run)
    if launch.process > 0:
        return
    # Without the group of processes: the first one measures alone what each of them would do.
    accelerator = start_accelerator(recipe, launch._replace(group=None))
    parts = launch.processes if is_sharded(recipe, launch) else 1
    build.check_model(recipe)
    with forked_generators(accelerator.device):
        dataset = load_data(recipe)
        vocabulary, objective, metadata = new_run(recipe, dataset, accelerator)
        # Alone, it divides its parameters with nobody.
        prepared = tokenise(recipe, accelerator, dataset, vocabulary, replace(metadata, sharding="none"))
        objective.to(accelerator.device)
        console, reason = plain_console(), precision_of(recipe, accelerator).reason
        data = [*dataset.report, *prepared.train.report, *prepared.dev.report]
        for line in [*notes, reason, *metadata.report, *data, *idle_run(recipe)]:
            console.print(line)
        if run_folder.exists(folder := Path(run.folder)):
            console.print(f"{folder} holds a run; training would resume it")
        _print_parameters(console, objective, vocabulary)
        asked = f"an update of {run.tokens:,} tokens (run.tokens)"
        with computing(metadata.ways), enough_memory(lambda: asked, LESS):
            measured = _measure(prepared, objective, launch.processes)
        for line in [*_memory(objective, measured, parts), *_schedule(prepared, measured)]:
            console.print(line)
        _print_examples(console, prepared, objective)
    console.print("This was a dry run: no run's folder was written.")


def _print_parameters(console: Console, objective: Objective, vocabulary: Vocabulary) -> None:
    parts: Counter[str] = Counter()
    for name, parameter in objective.named_parameters():
        parts[".".join(name.split(".")[:2])] += parameter.numel()
    table = Table("part", "parameters", title=f"Parameters, for a vocabulary of {vocabulary.size} pieces")
    for name, number in [*parts.items(), ("all", parts.total())]:
        table.add_row(name, f"{number:,}")
    console.print(table)


class Measured(NamedTuple):
    """Time and memory of a few updates."""

    seconds: float  # of the last update
    optimizer: int  # bytes
    activations: int  # bytes that the largest micro-batch keeps for its backward
    peak: int | None = None  # bytes that the GPU held at once


def _measure(prepared: Prepared, objective: Objective, processes: int) -> Measured:
    """Make a few updates of throw-away weights as the first of some processes would."""
    recipe, run, device = prepared.recipe, prepared.recipe.run, prepared.accelerator.device
    state = State(run, objective, recipe.optimizer.build(objective), prepared.precision, None)
    wrapped = prepared.accelerator.prepare_model(objective)
    activations, seconds, gpu = Activations(objective), 0.0, device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for whole in islice(data_order(prepared.train.lengths(), run.tokens, run.seed, 0), STEPS):
        began = time.perf_counter()
        parts = deal(whole.examples, processes, run.accumulate, 0)
        share = numpy.concatenate([indices for indices, counts in parts if counts])
        with torch.autograd.graph.saved_tensors_hooks(activations.add, lambda tensor: tensor):
            unguarded_update(prepared, wrapped, state, make(prepared, UpdateBatch(whole.epoch, share)))
        if gpu:
            torch.cuda.synchronize(device)  # kernels run asynchronously: until here they were only queued
        seconds = time.perf_counter() - began
    moments = [value for values in state.optimizer.state.values() for value in values.values()]
    optimizer = sum(value.nbytes for value in moments if isinstance(value, Tensor))
    peak = torch.cuda.max_memory_allocated(device) if gpu else None
    return Measured(seconds, optimizer, activations.most, peak)


class Activations:
    """Bytes that a forward of the objective keeps for its backward, parameters not counted."""

    def __init__(self, objective: Objective) -> None:
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
        self.storages: dict[int, int] = {}
        self.most = 0
        # Reset before each forward too: a backward that recomputes blocks also saves tensors, only for a moment.
        objective.register_forward_pre_hook(lambda *_: self.storages.clear())
        objective.register_forward_hook(lambda *_: self.finish())

    def add(self, tensor: Tensor) -> Tensor:
        """Count the storage of a saved tensor once, however many views of it are saved."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def finish(self) -> None:
        """Add up the tensors that this forward has saved."""
        self.most = max(self.most, sum(self.storages.values()))


def _memory(objective: Objective, measured: Measured, parts: int) -> Iterator[str]:
    """Yield lines on the memory of a process that holds one part of the parameters of ``parts``."""
    weights = sum(parameter.nbytes for parameter in objective.parameters()) // parts
    optimizer = measured.optimizer // parts
    whole = 2 * weights + optimizer + measured.activations
    if measured.peak is not None and parts == 1:
        yield f"memory of the GPU: {measured.peak / MEBI:,.0f} MiB at once in these updates, as torch counts it"
    yield (
        f"memory of a process: about {whole / MEBI:,.0f} MiB besides the libraries: weights {weights / MEBI:,.0f}, "
        f"gradients {weights / MEBI:,.0f}, optimizer {optimizer / MEBI:,.0f}, "
        f"activations of a micro-batch {measured.activations / MEBI:,.0f}"
    )


def _schedule(prepared: Prepared, measured: Measured) -> Iterator[str]:
    run, lengths = prepared.recipe.run, prepared.train.lengths()
    plan = updates(lengths, run.tokens, run.seed, 0)
    share, epochs = real_share(lengths, plan), run.steps / len(plan)
    yield f"an epoch has {len(plan)} updates of up to {run.tokens} columns; {share:.1%} of the columns are tokens"
    yield f"{run.steps} steps are {epochs:.2f} epochs, {run.steps * len(lengths) / len(plan):,.0f} examples"
    yield (
        f"an update took {measured.seconds:.2f} s: {run.steps} steps take about "
        f"{run.steps * measured.seconds / 60:.1f} min on this machine, evaluation and decoding not counted"
    )


def _print_examples(console: Console, prepared: Prepared, objective: Objective) -> None:
    """Print the first examples column by column: the piece that is read, as prefix methods edit it, and the label."""
    vocabulary, device = prepared.vocabulary, prepared.accelerator.device
    for index, example in enumerate(prepared.dataset.train[:EXAMPLES]):
        batch = prepared.train.batch(numpy.array([index]), vocabulary).to(device)
        title = f"Train example {index}: {example.source[:60]!r} -> {example.target[:60]!r}"
        part = "segment" if vocabulary.roles[0] == "0" else "role"
        table = Table("column", part, "reads", "id", "after feeds", "writes", "id", title=title)
        for row in _columns(vocabulary, batch, _edited(objective, batch)):
            table.add_row(*row)
        console.print(table)


def _edited(objective: Objective, batch: Batch) -> Batch:
    """Return the batch as the recipe's prefix methods edit it at their full strength."""
    edited = batch
    with torch.no_grad():
        for name, method, prepared in objective.mitigations:
            if isinstance(method, PrefixMethod):
                passes = Passes(objective.model, objective.label_smoothing, objective)
                context = StepContext(passes, Draws(batch.seeds, name), count(batch), 0, 1.0, prepared)
                edited = method.feed(edited, context)
    return edited


def _columns(vocabulary: Vocabulary, batch: Batch, edited: Batch) -> Iterator[tuple[str, ...]]:
    source = batch.source[0].tolist()
    around, text, begin, written_text = vocabulary.roles
    first, last = len(vocabulary.opening), len(source) - len(vocabulary.closing)
    for column, id in enumerate(source):
        yield str(column), text if first <= column < last else around, vocabulary.piece(id), str(id), "", "", ""
    for id in vocabulary.prefix:
        yield "", "decoder", vocabulary.piece(id), str(id), "", "", ""
    rows = zip(batch.target[0].tolist(), edited.target[0].tolist(), edited.labels[0].tolist(), strict=False)
    for column, (id, read, label) in enumerate(rows, start=len(source)):
        after = "" if read == id else f"{vocabulary.piece(read)} ({read})"
        written = ("", "") if label == IGNORED else (vocabulary.piece(label), str(label))
        role = begin if column == len(source) else written_text
        yield str(column), role, vocabulary.piece(id), str(id), after, *written
