"""Train a run, or go on with it: ``accelerate launch s2s/train.py recipe=title_gen [key=value ...]``."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from s2s import checkpoints, commands, store
from s2s.batch import Counts, add, count
from s2s.checkpoints import Best, Checkpoint
from s2s.config.describing import Schema, explain
from s2s.data.batches import Place, micro_batches, schedule
from s2s.errors import UserError
from s2s.evaluation import evaluate
from s2s.machine import machine_report
from s2s.matmul import kernel
from s2s.objective import Objective
from s2s.preparation import Prepared, check_same, prepare, start_objective, start_processes
from s2s.progress import Reporter
from s2s.recipe import LISTS, NAMES, TABLES, Recipe
from s2s.rehearsal import rehearse
from s2s.run import Run
from s2s.run import load as load_run
from s2s.seeds import seed_of

USAGE = """\
usage: accelerate launch s2s/train.py recipe=NAME_OR_PATH [key=value ...] [--dry-run]
       accelerate launch s2s/train.py --help [SECTION]

Trains the run of a recipe, or goes on with it. A recipe is a YAML file that lists what differs from the defaults, and
may name one other as its base; key=value (run.steps=500) comes last. --dry-run shows
what would be trained, and trains nothing. Exit codes: 0 finished, 2 an error that you can
mend, 130 interrupted.
"""


def fit(recipe: Recipe) -> Run:
    """Train the recipe's run to its last step, from its newest checkpoint if it has one; returns its best weights.

    Killed at any moment and started again, it ends with the same weights to the bit on CPU. Errors: a UserError for
    a folder whose recipe, data or threads differ.
    """
    folder = Path(recipe.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = start_processes(recipe)
    with torch.random.fork_rng(), _alone(accelerator, folder):
        if store.exists(folder):
            check_same(recipe, folder)
        prepared = prepare(recipe, accelerator, folder)
        with kernel(prepared.facts.kernel):
            _train(prepared, folder)
    accelerator.wait_for_everyone()
    return load_run(folder)


@contextmanager
def _alone(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Hold the run's folder while training; the other processes wait for the main one to have it."""
    lock: AbstractContextManager[None] = nullcontext()
    if accelerator.is_main_process:
        lock = store.locked(folder, lambda text: print(text, flush=True))
    with lock:
        accelerator.wait_for_everyone()
        yield


def _train(prepared: Prepared, folder: Path) -> None:
    """The loop: update, log, evaluate, save."""
    recipe, accelerator = prepared.recipe, prepared.accelerator
    objective, checkpoint, report = start_objective(prepared, folder)
    start, best = (checkpoint.step, checkpoint.best) if checkpoint else (0, None)
    optimizer = recipe.optimizer.build(objective)
    if checkpoint:
        optimizer.load_state_dict(checkpoint.optimizer)
    wrapped, optimizer = accelerator.prepare(objective, optimizer)
    if accelerator.is_main_process:
        store.cut_log(folder, start)
    places = schedule(prepared.train.lengths(), recipe.run.tokens, recipe.run.seed, start)
    with Reporter(folder / "log.jsonl" if accelerator.is_main_process else None, start, recipe.run.steps) as reporter:
        _introduce(prepared, objective, reporter, [*report, *prepared.train.report, *prepared.dev.report])
        for step, place in zip(range(start + 1, recipe.run.steps + 1), places, strict=False):
            reporter.step(_update(prepared, wrapped, optimizer, place, step))
            due = step == recipe.run.steps
            if due or step % recipe.run.evaluate_every == 0:
                before, best = best, _evaluate(prepared, objective, reporter, step, best)
                due = due or best != before
            if due or step % recipe.run.save_every == 0:
                _save(accelerator, folder, Checkpoint(step, objective.state_dict(), optimizer.state_dict(), best))
        if best is not None:
            reporter.say(
                f"{folder}: finished at step {recipe.run.steps}; best {recipe.run.select} "
                f"{best.value:.3f} at step {best.step}"
            )


def _update(prepared: Prepared, wrapped: Module, optimizer: Optimizer, place: Place, step: int) -> dict[str, Any]:
    """One update of the weights; returns its line of the log."""
    run, accelerator, began = prepared.recipe.run, prepared.accelerator, time.perf_counter()
    rate = prepared.recipe.optimizer.rate * prepared.recipe.schedule.factor(step - 1, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    parts, counts = accumulate(prepared, wrapped, place, step)
    norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), run.clip))
    if not math.isfinite(norm):
        raise UserError(f"step {step}: the gradient's norm is {norm}; the last checkpoint is whole")
    optimizer.step()
    optimizer.zero_grad()
    shares = {name: float(accelerator.reduce(value, "sum")) for name, value in parts.items()}
    units = {name: int(value) for name, value in zip(Counts._fields, counts, strict=True)}
    seconds = time.perf_counter() - began
    return {"step": step, "epoch": place.epoch, **shares, "norm": norm, "rate": rate, **units, "seconds": seconds}


def accumulate(prepared: Prepared, wrapped: Module, place: Place, step: int) -> tuple[dict[str, Tensor], Counts]:
    """Add up the gradients of an update over this process's micro-batches and, at the last one, over all processes.

    Returns this process's shares of the losses and the units of the whole update.
    """
    run, accelerator = prepared.recipe.run, prepared.accelerator
    process, processes = accelerator.process_index, accelerator.num_processes
    batches = micro_batches(place, prepared.train, prepared.vocabulary, processes, run.accumulate, process, run.seed)
    counts = _over_processes(accelerator, add([count(batch) for batch in batches]))
    parts: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        torch.manual_seed(seed_of(run.seed, "dropout", step, process, number))
        with nullcontext() if number == len(batches) - 1 else accelerator.no_sync(wrapped):
            losses = wrapped(batch.to(accelerator.device), step, counts)
            accelerator.backward(losses.total * processes)  # the wrappers average over processes
        parts = {name: value + parts.get(name, 0) for name, value in losses.parts.items()}
    return parts, counts


def _over_processes(accelerator: Accelerator, counts: Counts) -> Counts:
    """The units of the whole update."""
    total = accelerator.reduce(torch.stack(counts).to(accelerator.device), "sum")
    return Counts(*total.unbind())


def _evaluate(prepared: Prepared, objective: Objective, reporter: Reporter, step: int, best: Best | None) -> Best:
    """Score the dev split, tell, and return the best step so far."""
    recipe = prepared.recipe
    scores = evaluate(prepared.accelerator, objective, prepared.vocabulary, recipe, prepared.dataset.dev, prepared.dev)
    reporter.record({"step": step, "dev": scores})
    reporter.say(f"step {step}: dev " + "  ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    value = scores[recipe.run.select]
    sign = -1 if recipe.run.select.rpartition(".")[2] == "loss" else 1
    return Best(step, value) if best is None or sign * value > sign * best.value else best


def _save(accelerator: Accelerator, folder: Path, checkpoint: Checkpoint) -> None:
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        checkpoints.save(folder, checkpoint)
    accelerator.wait_for_everyone()


def _introduce(prepared: Prepared, objective: Objective, reporter: Reporter, report: list[str]) -> None:
    """Say what is trained on what."""
    parameters, facts = sum(parameter.numel() for parameter in objective.parameters()), prepared.facts
    reporter.say(
        f"{prepared.recipe.run.folder}: {parameters / 1e6:.1f}M parameters, {facts.precision}, "
        f"{facts.threads} threads, data {facts.data}"
    )
    for line in (*prepared.dataset.report, *facts.report, *report, *machine_report(prepared, objective)):
        reporter.say(f"  {line}")


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when the run is finished, 2 after an error that the user can mend, 130 after an interrupt."""
    if not arguments:
        print(USAGE)
        return 2
    if {"-h", "--help"} & set(arguments):
        return commands.run(lambda: print(explain(USAGE, Schema(Recipe, TABLES, LISTS, NAMES), arguments)))
    return commands.run(lambda: _command(arguments), "stopped; the same command goes on from the last checkpoint")


def _command(arguments: Sequence[str]) -> None:
    dry, arguments = "--dry-run" in arguments, [argument for argument in arguments if argument != "--dry-run"]
    recipes = [argument.removeprefix("recipe=") for argument in arguments if argument.startswith("recipe=")]
    if len(recipes) != 1:
        raise UserError(f"command line: one recipe=NAME is needed, not {len(recipes)}\n{USAGE}")
    recipe = Recipe.load(recipes[0], [argument for argument in arguments if not argument.startswith("recipe=")])
    rehearse(recipe) if dry else fit(recipe)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
