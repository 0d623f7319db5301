"""Run what is missing of a study: processes side by side, a thread or a GPU each, stopped whole at the budget's end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from s2s.console.terminal import Log
from s2s.data.splits import locate
from s2s.errors import UserError, shortened
from s2s.files.locks import locked
from s2s.machine.worker_pool import cores
from s2s.recipe.build import check_model
from s2s.study import results
from s2s.study.results import Result
from s2s.study.settings import Plan

POLL, REPORT = 0.5, 60.0
"""Seconds between two looks at the processes, and between two lines on how far they are."""
KILLED = -9
"""The exit code of a run that was killed; Windows has no such signal, nor a name for it."""
STOPPED = (130, 143, -signal.SIGTERM, -signal.SIGINT, KILLED)
"""Exit codes of a run that was stopped, and continues the next time."""
PATIENCE = 40.0
"""Seconds that runs have to end whole before they are killed."""
ERROR, MOST = "error: ", 400
"""The beginning of a line that says what failed, and the characters of it that are shown."""


def reserve(budget: float) -> float:
    """Return how many of a budget's seconds are kept to end whole: a step, a checkpoint and the page."""
    return min(80.0, budget / 4)


@dataclass
class Process:
    """A run that is being worked on."""

    variant: str
    seed: int
    process: "subprocess.Popen[bytes]"
    slot: int  # its number among the workers; with GPUs, that of its GPU
    log: Path
    written: int  # bytes of the log before it began, which are of earlier processes

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.variant}, seed {self.seed}"


@dataclass
class Progress:
    """The runs of a study: those with results, those that are left, and those that failed with the reason."""

    finished: dict[tuple[str, int], Result]
    left: list[tuple[str, int]]
    failed: dict[tuple[str, int], str]


def progress(plan: Plan) -> Progress:
    """Read which runs of a study have results, and which are left.

    A run that one of those reads is left, too, where its weights are not here: results come without them.
    """
    finished = {}
    for variant, seed in plan.runs:
        result = results.stored(plan, variant, seed)
        # The measurements may have changed since; without the weights the old ones are all that there is.
        if result and (result.measured == plan.measured_hash(variant) or not plan.is_trained(variant, seed)):
            finished[variant, seed] = result
    only = plan.settings.only or list(plan.variants)
    left = {run for run in plan.runs if run not in finished and run[0] in only}
    read = set(left)
    while read:  # what is read may read others in turn
        read = {other for run in read for other in needed(plan, *run) if not plan.is_trained(*other)} - left
        left |= read
    # In the order of the study, whose variants read earlier ones.
    order = [*plan.runs, *sorted(left - set(plan.runs))]
    return Progress(finished, [run for run in order if run in left], {})


def check_folders(plan: Plan, state: Progress) -> None:
    """Refuse, before any training, folders that hold runs of variants as they were before. Errors: a UserError."""
    changed = [plan.run_folder(*run) for run in state.left if plan.is_another(*run)]
    if changed:
        names = ", ".join(folder.name for folder in changed)
        raise UserError(
            f"{plan.folder}: {names}: runs of a recipe that has changed since they began; give folder=ANOTHER, or "
            f"remove {changed[0]} and what else there has its name"
        )


def check_inputs(plan: Plan, state: Progress) -> None:
    """Refuse, before any run is started, data and checkpoints that are not there. Errors: a UserError."""
    # One run of each variant. Those that read others may name what these will have made.
    for variant, seed in dict(run for run in state.left if not plan.needs(*run)).items():
        recipe = plan.recipe(variant, seed)
        try:
            locate(recipe.data)
            check_model(recipe)
        except UserError as error:
            raise UserError(f"{variant}: {error}; {runs_left(len(state.left))}") from None


def needed(plan: Plan, variant: str, seed: int) -> list[tuple[str, int]]:
    """Return the runs that a run reads."""
    return [(other.variant, number) for other in plan.needs(variant, seed) for number in other.seeds]


def minutes(plan: Plan, state: Progress, variant: str) -> float | None:
    """Return the CPU minutes that a run of a variant takes: measured, declared, or as the others; None if unknown."""
    measured = {
        name: fmean(times)
        for name in plan.variants
        if (times := [result.cpu_minutes for (other, _), result in state.finished.items() if other == name])
    }
    if variant in measured:
        return measured[variant]
    declared = plan.minutes
    if variant in declared:
        # Measured runs tell how this machine differs from the one of the declaration.
        speeds = [measured[name] / declared[name] for name in measured if declared.get(name)]
        return declared[variant] * (fmean(speeds) if speeds else 1.0)
    return fmean(measured.values()) if measured else None


def remaining(plan: Plan, state: Progress, workers: int) -> str:
    """Return in words how long the runs that are left will take."""
    times = [minutes(plan, state, variant) for variant, _ in state.left]
    if not times:
        return "nothing is left"
    if all(time is None for time in times):
        return "unknown: no run is finished yet and the study declares no minutes"
    done = {run: _share_done(plan, *run) for run in state.left}
    total = sum(time * (1 - share) for time, share in zip(times, done.values(), strict=True) if time is not None)
    elapsed = total / min(workers, len(times))
    unknown = {variant: None for (variant, _), time in zip(state.left, times, strict=True) if time is None}
    besides = f", besides {', '.join(unknown)}, whose minutes are not declared" if unknown else ""
    return f"about {hours(total)} of CPU time, {hours(elapsed)} with {workers} at a time{besides}"


def runs_left(number: int) -> str:
    """Say how many runs are left."""
    return "1 run is left" if number == 1 else f"{number} runs are left"


def hours(time: float) -> str:
    """Write minutes for people."""
    return f"{time / 60:.1f} hours" if time >= 90 else f"{max(time, 0.1):.1f} minutes"


def _share_done(plan: Plan, variant: str, seed: int) -> float:
    """Return the share of a run's updates that are done, by its log."""
    step = last_step(plan.run_folder(variant, seed))
    return step / plan.recipe(variant, seed).run.steps if step else 0.0


def last_step(folder: Path) -> int:
    """Return the last step in a run's log, 0 without one."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        # The end alone: the log of a long run has megabytes, and this is asked every minute.
        file.seek(max(0, path.stat().st_size - 4000))
        lines = file.read().splitlines()
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # the last line may be half-written
            return int(json.loads(line)["step"])
    return 0


def devices() -> int:
    """Return the number of GPUs that runs may take."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def workers_of(plan: Plan) -> int:
    """Return how many runs work at a time: as the study says, one a GPU, or one."""
    gpus, asked = devices(), plan.settings.workers
    if asked is None:
        return max(1, gpus)
    if gpus == 0 and asked * plan.settings.threads > cores():
        raise UserError(
            f"workers: {asked} with {plan.settings.threads} threads each, but there are {cores()} cores; give fewer"
        )
    return asked


def run(plan: Plan, state: Progress, arguments: Sequence[str], began: float, log: Log) -> None:
    """Work on all runs that are left, until they are finished or the budget is used up; ``state`` is kept up to date.

    The budget counts from the command's beginning, ``began`` on the monotonic clock.

    On SIGTERM and Ctrl-C the runs save their checkpoints, and the signal takes effect afterwards.
    """
    workers, deadline = workers_of(plan), None
    if plan.settings.budget is not None:
        seconds = plan.settings.budget * 60
        deadline = began + seconds - reserve(seconds)
    plan.folder.mkdir(parents=True, exist_ok=True)
    running: list[Process] = []
    reported = time.monotonic()
    message = f"{plan.folder}: another process works on this study; waiting until it ends"
    with locked(plan.folder / ".lock", lambda: log(message)) as waited, _ended(running):
        if waited:  # what was left may be done now
            now = progress(plan)
            state.finished, state.left = now.finished, now.left
            log(runs_left(len(state.left)))
        while True:
            for process in [process for process in running if process.process.poll() is not None]:
                running.remove(process)
                _finish(plan, process, state, log, stopped=False)
            if deadline is not None and time.monotonic() >= deadline:
                log("the budget is used up: the runs save their checkpoints")
                break
            _start(plan, state, running, workers, arguments, log)
            if not running:
                break
            if time.monotonic() - reported >= REPORT:
                reported = time.monotonic()
                log(_status(plan, state, running, workers))
            time.sleep(POLL)
    for process in running:
        _finish(plan, process, state, log, stopped=True)


@contextmanager
def _ended(running: list[Process]) -> Iterator[None]:
    """End the processes at the end of the block, whole; SIGTERM ends the block as Ctrl-C does."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running:
            with suppress(OSError):
                process.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        for process in running:
            try:
                process.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:  # in a long evaluation; its last checkpoint is on the disk
                process.process.kill()
                process.process.wait()


def _start(
    plan: Plan, state: Progress, running: list[Process], workers: int, arguments: Sequence[str], log: Log
) -> None:
    """Start runs while there are free workers and runs whose needs are met."""
    busy = {(process.variant, process.seed) for process in running}
    for variant, seed in state.left:
        if len(running) >= workers:
            return
        if (variant, seed) in busy or (variant, seed) in state.failed:
            continue
        missing = [run for run in needed(plan, variant, seed) if not plan.is_trained(*run)]
        if any(run in state.failed for run in missing):
            state.failed[variant, seed] = f"it reads {missing[0][0]}, seed {missing[0][1]}, which failed"
            continue
        if missing:
            # Its teachers are being trained; a run that needs none takes the free worker meanwhile.
            continue
        slot = min(set(range(workers)) - {process.slot for process in running})
        running.append(_process(plan, variant, seed, slot, arguments))
        log(f"{running[-1].name}: started ({running[-1].log})")


def _process(plan: Plan, variant: str, seed: int, slot: int, arguments: Sequence[str]) -> Process:
    path = plan.folder / f"{variant}-{seed}.log"
    # Said to each run: two that took all cores would take longer side by side than one after the other.
    threads = str(plan.settings.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if gpus := devices():
        # The variable that is not set names none; an empty one would hide the GPU from the run.
        shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = shown[slot % gpus] if len(shown) >= gpus else str(slot % gpus)
    command = [sys.executable, "-m", "s2s.study.measuring", variant, str(seed), *arguments]
    with path.open("ab") as file:
        written = file.tell()
        # A session of its own: Ctrl-C reaches only the runner, which ends each of its runs once.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    return Process(variant, seed, process, slot, path, written)


def _finish(plan: Plan, process: Process, state: Progress, log: Log, stopped: bool) -> None:
    """Note what became of a process that has ended, by itself or because it was ``stopped``."""
    run, code = (process.variant, process.seed), process.process.returncode
    if process.process.stdin is not None:
        process.process.stdin.close()
    if code == 0 and (result := results.stored(plan, *run)) is not None:
        state.finished[run] = result
        state.left.remove(run)
        spent = hours(result.cpu_minutes)
        log(f"{process.name}: finished after {spent} of CPU time; {runs_left(len(state.left))}")
    elif not (stopped and code in STOPPED):
        state.failed[run] = _reason(process, code)
        log(f"{process.name}: failed: {state.failed[run]} ({process.log})")


def _reason(process: Process, code: int) -> str:
    """Return in a line why a process has failed: the error that it wrote, or else how it ended."""
    if code == 0:
        return "the study's file has changed since the command began; results are of the file as it is now"
    if code == KILLED:
        return "killed; was there too little memory?"
    lines = process.log.read_bytes()[process.written :].decode(errors="replace").strip().splitlines()
    if errors := [line for line in lines if line.startswith(ERROR)]:
        return shortened(errors[-1].removeprefix(ERROR), MOST)
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    # A traceback ends with the exception.
    return shortened(lines[-1], MOST) if lines else f"exit code {code}"


def _status(plan: Plan, state: Progress, running: Sequence[Process], workers: int) -> str:
    """Return a line on how far the runs are."""
    steps = [f"{process.name}: step {last_step(plan.run_folder(process.variant, process.seed))}" for process in running]
    return f"{'; '.join(steps)}; {runs_left(len(state.left))}, {remaining(plan, state, workers)}"
