"""One update of the weights: its micro-batches over all processes, and the refusal of updates that are not finite."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import Module

from s2s.batch import Batch, Counts, add, count
from s2s.data.batches import UpdateBatch, data_order, micro_batches
from s2s.errors import UserError
from s2s.machine.memory import enough_memory
from s2s.randomness import seed_device, seed_of
from s2s.training.setup import Prepared
from s2s.training.sharding import clip_gradients
from s2s.training.state import State

LESS = (
    "raise run.accumulate (more and smaller micro-batches, the same update), lower run.tokens, or recompute with "
    "run.checkpointing=block"
)
"""Ways to need less memory in training."""


class MadeUpdate(NamedTuple):
    """An update's epoch and examples, this process's micro-batches of it, and the units of these, as ``Counts``."""

    plan: UpdateBatch
    batches: list[Batch]
    units: Tensor


def made_updates(prepared: Prepared, start: int) -> Iterator[MadeUpdate]:
    """Yield the updates from step ``start`` on, without end."""
    run = prepared.recipe.run
    for plan in data_order(prepared.train.lengths(), run.tokens, run.seed, start):
        yield make(prepared, plan)


def make(prepared: Prepared, plan: UpdateBatch) -> MadeUpdate:
    """Make this process's micro-batches of an update and count their units; for a GPU, in pinned memory."""
    run, accelerator = prepared.recipe.run, prepared.accelerator
    process, processes = accelerator.process_index, accelerator.num_processes
    with enough_memory(lambda: "the batch of an update", LESS):
        batches = micro_batches(plan, prepared.train, prepared.vocabulary, processes, run.accumulate, process, run.seed)
        units = torch.stack(add([count(batch) for batch in batches]))
        if accelerator.device.type != "cuda":
            return MadeUpdate(plan, batches, units)
        # A thread that has not chosen its device would take the first one, and pinning may take memory of it.
        with torch.cuda.device(accelerator.device):
            # Only from pinned memory does a copy to the GPU not wait for what the GPU is doing.
            return MadeUpdate(plan, [batch.map(Tensor.pin_memory) for batch in batches], units.pin_memory())


def update(prepared: Prepared, wrapped: Module, state: State, made: MadeUpdate) -> dict[str, Any]:
    """Update the weights once; return the line of the log.

    ``wrapped`` is the state's objective as accelerate has prepared it. Errors: a UserError, in all processes, where
    loss or gradient are not finite, and in one process that runs out of memory. The last checkpoint is whole then.
    """
    run = state.run

    def asked() -> str:
        tokens = int(prepared.train.lengths()[made.plan.examples].sum())
        parts = prepared.accelerator.num_processes * run.accumulate
        in_parts = f"in {parts} micro-batch{'es' * (parts > 1)}"
        return f"step {state.step + 1}, {tokens:,} tokens {in_parts} (run.tokens {run.tokens})"

    with enough_memory(asked, f"{LESS}; the last checkpoint is whole"):
        return unguarded_update(prepared, wrapped, state, made)


def unguarded_update(prepared: Prepared, wrapped: Module, state: State, made: MadeUpdate) -> dict[str, Any]:
    """Update the weights as ``update`` does, with torch's own errors where memory runs out."""
    run, precision, began = state.run, prepared.precision, time.perf_counter()
    step, optimizer = state.step + 1, state.optimizer
    rate = prepared.recipe.optimizer.rate * prepared.recipe.schedule.factor(state.step, run.steps)
    # The rate is a function of the step alone, so a checkpoint needs no state of a scheduler.
    for group in optimizer.param_groups:
        group["lr"] = rate
    parts, counts = accumulate(prepared, wrapped, made, step)
    # Before clipping: ``run.clip`` limits the norm of the true gradient.
    precision.scaler.unscale_(optimizer)
    norm, scale, losses, units = _read(prepared, clip(prepared, wrapped), parts, counts)
    finite = math.isfinite(norm) and math.isfinite(losses["loss"])
    if finite:
        optimizer.step()
    elif math.isfinite(norm) or not precision.can_shrink(scale):
        # Otherwise the scale of fp16 may have made the gradient overflow: the update is skipped and the scale shrinks.
        raise UserError(not_finite(prepared, state, made.plan, f"loss {losses['loss']}, norm of the gradient {norm}"))
    scaling = precision.settle(scale, not finite)
    optimizer.zero_grad()
    state.advance()
    # JSON has no infinity; an update that fp16 skipped has null in its line.
    numbers = {name: value if math.isfinite(value) else None for name, value in {**losses, "norm": norm}.items()}
    seconds = time.perf_counter() - began
    return {"step": step, "epoch": made.plan.epoch, **numbers, "rate": rate, **units, **scaling, "seconds": seconds}


def clip(prepared: Prepared, wrapped: Module) -> Tensor:
    """Scale the gradients so that their norm is at most ``run.clip``; return the norm before that."""
    largest = prepared.recipe.run.clip
    if prepared.metadata.sharding == "full":
        return clip_gradients(wrapped.parameters(), largest)
    norm: Tensor = prepared.accelerator.clip_grad_norm_(wrapped.parameters(), largest)
    return norm


def accumulate(prepared: Prepared, wrapped: Module, made: MadeUpdate, step: int) -> tuple[dict[str, Tensor], Counts]:
    """Add up the gradients of an update over this process's micro-batches and, at the last one, over all processes.

    Returns this process's shares of the losses, and the units of the whole update.
    """
    run, accelerator, precision = prepared.recipe.run, prepared.accelerator, prepared.precision
    process, processes = accelerator.process_index, accelerator.num_processes
    units = accelerator.reduce(made.units.to(accelerator.device, non_blocking=True), "sum")
    counts, batches = Counts(*units.unbind()), made.batches
    # In fp16 a tensor, since the number would have to be waited for.
    scale = precision.scale_on(accelerator.device) if precision.half else 1.0
    parts: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        # A seed for every micro-batch: dropout is then the same after a resume, and differs between processes.
        seed_device(seed_of(run.seed, "dropout", step, process, number), accelerator.device)
        # DDP exchanges gradients once an update, after the last backward. Sharded parameters do so in each backward:
        # gradients that waited would be whole in every process.
        with nullcontext() if number == len(batches) - 1 else accelerator.no_sync(wrapped):
            with precision.context():
                losses = wrapped(batch.to(accelerator.device), step, counts, scale)
            # Wrappers average gradients over processes, and these losses are shares of a sum, hence the factor.
            # ``accelerator.backward`` would also divide by a number of accumulation steps of its own.
            precision.scaler.scale(losses.total * processes).backward()
        parts = {name: value + parts.get(name, 0) for name, value in losses.parts.items()}
    return parts, counts


def _read(
    prepared: Prepared, norm: Tensor, parts: dict[str, Tensor], counts: Counts
) -> tuple[float, float, dict[str, float], dict[str, int]]:
    """Return the norm, the scale of the losses, their sums over the processes and the units, as numbers.

    This is the one place of an update that waits for a GPU, so all is read at once.
    """
    accelerator = prepared.accelerator
    totals = accelerator.reduce(torch.stack(list(parts.values())), "sum")
    scale = prepared.precision.scale_on(totals.device)
    # Doubles hold both single precision and units exactly; Apple's GPU has none.
    dtype = torch.float32 if totals.device.type == "mps" else torch.float64
    numbers = torch.cat([part.to(dtype).flatten() for part in (norm, scale, totals, *counts)])
    first, used, *rest = numbers.tolist()
    units = dict(zip(Counts._fields, map(int, rest[len(parts) :]), strict=True))
    return first, used, dict(zip(parts, rest, strict=False)), units


def not_finite(prepared: Prepared, state: State, update_batch: UpdateBatch, reason: str) -> str:
    """Return the message on an update that is not finite: its examples, and those that are not finite by themselves."""
    indices = update_batch.examples.tolist()
    culprits = [index for index in indices if not math.isfinite(_loss(prepared, state, update_batch.epoch, index))]
    cause = f"; not finite by themselves: {_listed(culprits)}" if 0 < len(culprits) < len(indices) else ""
    return (
        f"step {state.step + 1}: {reason}; its batch, in epoch {update_batch.epoch}, has the train examples "
        f"{_listed(indices)} (counted from 0){cause}; the weights are those of step {state.step}, and the last "
        f"checkpoint is whole"
    )


def _loss(prepared: Prepared, state: State, epoch: int, index: int) -> float:
    """Compute the loss of one example, without dropout."""
    batch = prepared.train.batch(numpy.array([index]), prepared.vocabulary, state.run.seed, epoch)
    objective, training = state.objective, state.objective.training
    with prepared.precision.context():
        losses = objective.eval()(batch.to(prepared.accelerator.device), state.step + 1)
    objective.train(training)
    return float(losses.total.detach())


def _listed(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))
