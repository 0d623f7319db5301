"""Train a run, or resume it: ``accelerate launch s2s/train.py recipe=title_gen [key=value ...]``."""

import math
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Started as a file of a checkout that need not be installed. Python has put this file's folder on the path, where
    # the modules of s2s would be found without their package; the checkout takes its place.
    _folder = Path(__file__).resolve().parent
    sys.path[:] = [str(_folder.parent), *(path for path in sys.path if Path(path).resolve() != _folder)]

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import distributed

from s2s.console.command_line import run_command
from s2s.console.terminal import end, log, no_log
from s2s.errors import UserError, first_line, install_command
from s2s.files.atomic import naming
from s2s.machine.agreement import check_shared, decided, failing_together, wait_for_all
from s2s.machine.memory import enough_memory, keep_freed_memory
from s2s.machine.paths import computing
from s2s.objective import Objective
from s2s.randomness import forked_generators
from s2s.recipe.idle import idle_run
from s2s.recipe.recipe import SCHEMA, Recipe
from s2s.runs import checkpoints, run_folder
from s2s.runs.log import cut_log
from s2s.runs.metadata import read_metadata
from s2s.runs.run import Run, opened
from s2s.training import plots, sharding, trackers
from s2s.training.ahead import ahead
from s2s.training.dry_run import rehearse
from s2s.training.evaluation import dev_scores, finish, shown
from s2s.training.hints import hints, processes_line
from s2s.training.launch import read_launch, settle
from s2s.training.reporter import Reporter
from s2s.training.saver import Saver
from s2s.training.setup import (
    Prepared,
    buffers,
    check_processes,
    check_resumable,
    precision_of,
    prepare,
    start_objective,
    wrap,
)
from s2s.training.signals import SIGNALS, Signals, leave, noted
from s2s.training.state import State
from s2s.training.step import made_updates, update

USAGE = """\
usage: s2s train recipe=NAME_OR_PATH [key=value ...] [--dry-run]
       s2s train --help [SECTION]
       accelerate launch -m s2s.train recipe=NAME_OR_PATH ...   on several GPUs; in a checkout also s2s/train.py

Trains the run of a recipe, or resumes it. A recipe is a YAML file that lists what differs from the defaults, and may
name one other as its base; key=value (run.steps=500) comes last. --dry-run shows what would be trained, and trains
nothing. On SIGINT (Ctrl-C) or SIGTERM the current step finishes and a checkpoint is written. Exit codes: 0 finished, 2
an error that you can mend, 130 after SIGINT, 143 after SIGTERM.
"""


def fit(recipe: Recipe) -> Run:
    """Train the recipe's run to its last step, from its newest checkpoint if it has one; return its best weights.

    Killed at any moment and started again, it ends on CPU with the same weights, bit for bit. Errors: a UserError for
    a folder of another recipe or other data, for losses that are not finite and for files that cannot be written; after
    a checkpoint, KeyboardInterrupt for SIGINT and an exit with 143 for SIGTERM.
    """
    recipe, device = _fit(recipe)
    folder = Path(recipe.run.folder)
    return opened(folder, recipe, read_metadata(folder), device=device)


def _fit(recipe: Recipe) -> tuple[Recipe, str]:
    """Train as ``fit`` does; return the recipe as the launcher has completed it, and the device."""
    recipe.to_yaml()  # refuses values that a run's folder could not hold, before there is one
    run, notes = settle(recipe.run, read_launch(asked=recipe.run.device))
    recipe, folder = replace(recipe, run=run), Path(run.folder)
    accelerator = check_processes(recipe)
    if accelerator.device.type == "cpu":
        keep_freed_memory()  # for the rest of the process: each step would have to take it from the system again
    decided(lambda: _open_folder(recipe, folder))
    check_shared(folder)
    with forked_generators(accelerator.device), _locked(accelerator, folder):
        changes = decided(lambda: check_resumable(recipe, accelerator, folder) if run_folder.exists(folder) else [])
        prepared = prepare(recipe, accelerator, folder)
        with computing(prepared.metadata.ways):
            _train(prepared, folder, [*notes, *changes])
    wait_for_all()
    return recipe, str(accelerator.device)


def _open_folder(recipe: Recipe, folder: Path) -> None:
    """Make the run's folder. Both checks come before that: a run that is refused leaves no folder."""
    if not run_folder.exists(folder):
        run_folder.check_new(folder, recipe)
    run_folder.check_links(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _locked(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Lock the run's folder while training; the main process takes the lock, and the others wait for it."""
    lock: AbstractContextManager[object] = nullcontext()
    if accelerator.is_main_process:
        lock = run_folder.locked(folder, log)
    with lock:
        wait_for_all()
        yield


def _train(prepared: Prepared, folder: Path, changes: list[str]) -> None:
    """Update, log, evaluate and save until the run is finished."""
    recipe, accelerator = prepared.recipe, prepared.accelerator
    run, main = recipe.run, accelerator.is_main_process
    with enough_memory(lambda: "the model and its optimizer", "train a smaller model"):
        objective, checkpoint, report = start_objective(prepared, folder)
        state = State(run, objective, recipe.optimizer.build(objective), prepared.precision, checkpoint)
        wrapped = wrap(prepared, objective)
    if main:
        # The log may be ahead of the checkpoint: those steps are computed, and logged, again.
        cut_log(folder, state.step)
    on_record = trackers.start(accelerator, recipe, state.step, log if main else no_log)
    # A processor has no time left in which threads could make batches or write checkpoints.
    in_thread = accelerator.device.type == "cuda"
    with (
        Reporter(folder / "log.jsonl" if main else None, state.step, run.steps, on_record) as reporter,
        noted() as signals,
        ahead(made_updates(prepared, state.step), in_thread) as updates,
        Saver(folder, in_thread) as saver,
    ):
        _introduce(prepared, objective, reporter, [*changes, *report, *prepared.train.report, *prepared.dev.report])
        while not state.finished:
            reporter.step(update(prepared, wrapped, state, next(updates)))
            due, best = state.step % run.save_every == 0, state.best
            if state.step == run.steps or state.step % run.evaluate_every == 0:
                _evaluate(prepared, state, reporter)
            # In every step: a process that left alone would keep the others waiting for its gradients.
            stop = _agreed_signal(accelerator, signals, reporter.failure or saver.failure)
            # The best weights are saved at once, since the next update overwrites them.
            if due or stop or state.finished or state.best != best:
                _save(accelerator, saver, state)
            if stop:
                with failing_together():
                    saver.finish()
                reporter.log(f"stopped after step {state.step}; the same command resumes from there")
                leave(stop)
        with failing_together():
            saver.finish()
        finish(prepared, state, reporter)
    trackers.finish(accelerator)


def _evaluate(prepared: Prepared, state: State, reporter: Reporter) -> None:
    """Score the dev split, log it, judge whether this step is the best so far, and draw the curves."""
    state.check()
    remedy = "lower run.tokens (of the loss) or search.batch (of decoding)"
    with state.evaluated(), enough_memory(lambda: f"evaluation at step {state.step}", remedy):
        scores = dev_scores(prepared, state.objective)
    reporter.record({"step": state.step, "dev": scores})
    reporter.log(f"step {state.step}: dev {shown(scores)}")
    state.judge(scores.get(state.run.select, math.nan))
    if prepared.accelerator.is_main_process and plots.available():
        try:
            plots.draw(Path(state.run.folder))
        except Exception as error:  # whatever a drawing library raises: the run is worth more than its picture
            reporter.log(f"no picture of the curves: {type(error).__name__}: {first_line(error)}")


def _agreed_signal(accelerator: Accelerator, signals: Signals, failure: str | None) -> int:
    """Return the signal that any process has received, or 0, so that all end after the same step.

    ``failure`` is why the main process cannot write its log or a checkpoint. Errors: a UserError in all processes then.
    """
    signal = signals.received
    if accelerator.num_processes > 1:
        flags = torch.tensor([signal == number for number in SIGNALS] + [failure is not None])
        *received, failed = accelerator.reduce(flags.int().to(accelerator.device), "sum").tolist()
        signal = next((number for number, count in zip(SIGNALS, received, strict=True) if count), 0)
        failure = failure or ("the main process cannot write its log or a checkpoint" if failed else None)
    if failure:
        raise UserError(failure)
    return signal


def _save(accelerator: Accelerator, saver: Saver, state: State) -> None:
    """Write a checkpoint in the main process, or each process its parts; where that fails, end all processes."""
    state.check()
    # ``run.average`` needs that many checkpoints at the end, even if ``run.keep`` is less.
    keep = max(state.run.keep, state.run.average or 0)
    if state.run.checkpoint_format == "sharded":
        # Not in a thread: the processes exchange what each of them has written.
        parts = state.parts()._replace(measured=sharding.measures(state.objective))
        checkpoints.save_parts(saver.folder, parts, buffers(state.objective), keep)
        return
    checkpoint = state.checkpoint(accelerator.is_main_process)
    with failing_together():
        if accelerator.is_main_process:
            saver.save(checkpoint, keep)


def _introduce(prepared: Prepared, objective: Objective, reporter: Reporter, report: list[str]) -> None:
    """Log what is trained, on which data and hardware."""
    parameters, metadata = sum(parameter.numel() for parameter in objective.parameters()), prepared.metadata
    reporter.log(
        f"{prepared.recipe.run.folder}: {parameters / 1e6:.1f}M parameters, {metadata.precision}, "
        f"{metadata.threads} thread{'s' * (metadata.threads != 1)}, data {metadata.data}"
    )
    if not plots.available():
        report = [*report, f"no picture of the curves: matplotlib is not installed ({install_command('plots')})"]
    for line in (
        *idle_run(prepared.recipe),
        processes_line(prepared),
        precision_of(prepared.recipe, prepared.accelerator).reason,
        *prepared.dataset.report,
        *metadata.report,
        *report,
        *hints(prepared, objective),
    ):
        reporter.log(f"  {line}")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code, as in ``USAGE``."""
    stopped = "stopped; the same command resumes at the last checkpoint"
    return run_command(arguments, USAGE, SCHEMA, _command, _dry_run, stopped)


def _read(arguments: Sequence[str]) -> Recipe:
    """Return the recipe that the arguments name, with the other arguments as its overrides."""
    recipes = [argument.removeprefix("recipe=") for argument in arguments if argument.startswith("recipe=")]
    if len(recipes) != 1:
        raise UserError(f"command line: one recipe=NAME is needed, not {len(recipes)}\n{USAGE}")
    return Recipe.load(recipes[0], [argument for argument in arguments if not argument.startswith("recipe=")])


def _dry_run(arguments: Sequence[str]) -> None:
    rehearse(_read(arguments))


def _command(arguments: Sequence[str]) -> None:
    recipe = _read(arguments)
    try:
        _fit(recipe)
    except (KeyboardInterrupt, SystemExit):
        _leave_group()
        raise
    _leave_group()


def _leave_group() -> None:
    """Leave the group of processes. After an error nobody may call this: it would wait for others that never come."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    end(main(sys.argv[1:]))
