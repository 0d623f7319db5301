"""One update of the weights: its micro-batches over all processes, and what is refused of it."""

import math
import time
from contextlib import nullcontext
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module

from s2s.batch import Counts, add, count
from s2s.data.batches import UpdateBatch, micro_batches
from s2s.errors import UserError
from s2s.machine.memory import enough_memory
from s2s.randomness import seed_device, seed_of
from s2s.training.setup import Prepared
from s2s.training.state import State

LESS = (
    "raise run.accumulate (more and smaller micro-batches, the same update), lower run.tokens, or recompute with "
    "run.checkpointing=block"
)
"""What needs less memory in training."""


def update(prepared: Prepared, wrapped: Module, state: State, place: UpdateBatch) -> dict[str, Any]:
    """One update of the weights; returns its line of the log.

    Errors: a UserError, in all processes, where loss or gradient are not finite, and in one that runs out of memory;
    the last checkpoint is whole then.
    """
    with enough_memory(lambda: _asked(prepared, state, place), f"{LESS}; the last checkpoint is whole"):
        return _update(prepared, wrapped, state, place)


def _asked(prepared: Prepared, state: State, place: UpdateBatch) -> str:
    """Return the step and the size of its update."""
    run, tokens = state.run, int(prepared.train.lengths()[place.examples].sum())
    parts = prepared.accelerator.num_processes * run.accumulate
    return (
        f"step {state.step + 1}, {tokens:,} tokens in {parts} micro-batch{'es' * (parts > 1)} (run.tokens {run.tokens})"
    )


def _update(prepared: Prepared, wrapped: Module, state: State, place: UpdateBatch) -> dict[str, Any]:
    run, accelerator, precision, began = state.run, prepared.accelerator, prepared.precision, time.perf_counter()
    step, optimizer = state.step + 1, state.optimizer
    rate = prepared.recipe.optimizer.rate * prepared.recipe.schedule.factor(state.step, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    parts, counts = accumulate(prepared, wrapped, place, step)
    precision.scaler.unscale_(optimizer)
    norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), run.clip))
    shares = _reduced(accelerator, parts)
    finite = math.isfinite(norm) and math.isfinite(shares["loss"])
    if finite:
        optimizer.step()
    elif math.isfinite(norm) or not precision.can_shrink:
        raise UserError(not_finite(prepared, state, place, f"loss {shares['loss']}, norm of the gradient {norm}"))
    scaling = precision.settle(not finite)
    optimizer.zero_grad()
    state.advance()
    numbers = {name: value if math.isfinite(value) else None for name, value in {**shares, "norm": norm}.items()}
    units = {name: int(value) for name, value in zip(Counts._fields, counts, strict=True)}
    seconds = time.perf_counter() - began
    return {"step": step, "epoch": place.epoch, **numbers, "rate": rate, **units, **scaling, "seconds": seconds}


def accumulate(prepared: Prepared, wrapped: Module, place: UpdateBatch, step: int) -> tuple[dict[str, Tensor], Counts]:
    """Add up the gradients of an update over this process's micro-batches and, at the last one, over all processes.

    Returns this process's shares of the losses and the units of the whole update.
    """
    run, accelerator, precision = prepared.recipe.run, prepared.accelerator, prepared.precision
    process, processes = accelerator.process_index, accelerator.num_processes
    batches = micro_batches(place, prepared.train, prepared.vocabulary, processes, run.accumulate, process, run.seed)
    counts = _over_processes(accelerator, add([count(batch) for batch in batches]))
    parts: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        seed_device(seed_of(run.seed, "dropout", step, process, number), accelerator.device)
        with nullcontext() if number == len(batches) - 1 else accelerator.no_sync(wrapped):
            with precision.context():
                losses = wrapped(batch.to(accelerator.device), step, counts, precision.scale)
            # The wrappers average over processes. ``accelerator.backward`` would divide by a number of its own.
            precision.scaler.scale(losses.total * processes).backward()
        parts = {name: value + parts.get(name, 0) for name, value in losses.parts.items()}
    return parts, counts


def _over_processes(accelerator: Accelerator, counts: Counts) -> Counts:
    """The units of the whole update."""
    total = accelerator.reduce(torch.stack(counts).to(accelerator.device), "sum")
    return Counts(*total.unbind())


def _reduced(accelerator: Accelerator, parts: dict[str, Tensor]) -> dict[str, float]:
    """The sum of the processes' shares."""
    total = accelerator.reduce(torch.stack(list(parts.values())), "sum")
    return dict(zip(parts, total.tolist(), strict=True))


def not_finite(prepared: Prepared, state: State, place: UpdateBatch, what: str) -> str:
    """What the error says of an update that is not finite: its examples, and those that are so by themselves."""
    batch = place.examples.tolist()
    alone = [index for index in batch if not math.isfinite(_loss(prepared, state, place, index))]
    cause = f"; not finite by themselves: {_numbers(alone)}" if 0 < len(alone) < len(batch) else ""
    return (
        f"step {state.step + 1}: {what}; its batch, in epoch {place.epoch}, has the train examples {_numbers(batch)} "
        f"(counted from 0){cause}; the weights are those of step {state.step}, and the last checkpoint is whole"
    )


def _loss(prepared: Prepared, state: State, place: UpdateBatch, index: int) -> float:
    """The loss of one example, without dropout."""
    batch = prepared.train.batch(numpy.array([index]), prepared.vocabulary, state.run.seed, place.epoch)
    objective, training = state.objective, state.objective.training
    with prepared.precision.context():
        losses = objective.eval()(batch.to(prepared.accelerator.device), state.step + 1)
    objective.train(training)
    return float(losses.total.detach())


def _numbers(indices: list[int]) -> str:
    return ", ".join(map(str, indices))
