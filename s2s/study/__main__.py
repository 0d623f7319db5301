"""Compare methods over seeds: ``s2s study study=NAME [key=value ...]``.

Trains what is missing, decodes, scores and diagnoses it, and writes the page, ``results.json`` and the rows of a table
in Markdown. The keys are those of ``Study``; they may be given in the study's file or on the command line.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from s2s.console.command_line import run_command
from s2s.console.outputs import check_output_files
from s2s.console.terminal import log
from s2s.errors import UserError
from s2s.study import runner
from s2s.study.page import OUTPUTS, write_page
from s2s.study.results import check_replaced, path_of
from s2s.study.settings import STUDY, Plan, read_plan

USAGE = """\
usage: s2s study study=NAME [workers=2] [budget=MINUTES] [key=value ...] [--dry-run]
       s2s study --help [SECTION]

Trains what is missing of a study, decodes, scores and compares it, and writes one page. The same command continues
after any stop, and runs whose results are there are not trained again. --dry-run shows what would be done, and how long
it would take. Exit codes: 0 finished or budget used up, 2 an error that you can mend, 130 after Ctrl-C, 143 after
SIGTERM.
"""


def study(arguments: Sequence[str]) -> None:
    """Work on what is left of a study, and write its page from all results that are there."""
    began = time.monotonic()
    plan = read_plan(arguments)
    state = runner.progress(plan)
    introduce(plan, state)
    _check(plan, state)
    try:
        if state.left:
            _check_left(plan, state)
            runner.run(plan, state, arguments, began, log)
    finally:
        # Also after a stop: the page of the runs that are finished is what there is to see.
        # Runs that others read may have seeds that are none of the comparison's.
        if finished := [state.finished[run] for run in plan.runs if run in state.finished]:
            log(str(write_page(plan, finished, log)))
    if state.failed:
        raise UserError(f"runs that failed, {len(state.failed)}: {'; '.join(_failures(state.failed))}")
    if state.left:
        left = runner.remaining(plan, state, runner.workers_of(plan))
        # Runs with other seeds, which these read, are left as well, but none of the comparison's.
        number = len(set(plan.runs).intersection(state.left))
        log(f"of {len(plan.runs)} runs, {runner.runs_left(number)} ({left}); the same command continues")


def _check(plan: Plan, state: runner.Progress) -> None:
    """Refuse, before hours of training, a page and results that cannot be written, and weights of changed recipes."""
    check_output_files("output", plan.output, OUTPUTS, [plan.file])
    runner.check_folders(plan, state)
    if state.left:
        check_output_files("results", plan.results, [path_of(plan, *run).name for run in state.left], [plan.file])
        check_output_files("folder", plan.folder, [], [plan.file])


def _check_left(plan: Plan, state: runner.Progress) -> None:
    """Refuse to begin what is left where it would replace results, or where its data or checkpoint is not there."""
    check_replaced(plan, state.left)
    runner.check_inputs(plan, state)


def _failures(failed: Mapping[tuple[str, int], str]) -> Iterator[str]:
    """Yield each reason once, after the names of the runs that have it, which are those of their folders."""
    for reason in dict.fromkeys(failed.values()):
        names = [f"{variant}-{seed}" for (variant, seed), other in failed.items() if other == reason]
        yield f"{', '.join(names)}: {reason}"


def introduce(plan: Plan, state: runner.Progress) -> None:
    """Say what the study asks, what is finished, and how long the rest will take."""
    log(f"{plan.file}: {plan.settings.title}")
    settings, size = plan.settings, f"{len(plan.variants)} variants x {len(plan.settings.seeds)} seeds"
    log(f"  {size}; {len(state.finished)} of {len(plan.runs)} runs have results")
    if again := len(_lost(plan, state)):
        log(f"  trained for weights that other runs read: {again}")
    if state.left:
        log(f"  left: {runner.remaining(plan, state, runner.workers_of(plan))}")
    if settings.budget is not None and state.left:
        log(f"  stops within {settings.budget:g} minutes")


def _lost(plan: Plan, state: runner.Progress) -> list[tuple[str, int]]:
    """Return the runs that are left only because other runs read their weights."""
    return [run for run in state.left if run in state.finished or run not in plan.runs]


def dry_run(arguments: Sequence[str]) -> None:
    """Show the runs of a study, what each takes, and train nothing."""
    plan = read_plan(arguments)
    state = runner.progress(plan)
    introduce(plan, state)
    lost = _lost(plan, state)
    for variant, seed in dict.fromkeys([*plan.runs, *lost]):
        minutes = runner.minutes(plan, state, variant)
        done = f"step {runner.last_step(plan.run_folder(variant, seed))}"
        if (variant, seed) in state.finished:
            done = "has results"
        if (variant, seed) in lost:
            done += ", is trained for its weights, which other runs read"
        log(f"  {variant}, seed {seed}: {done}{'' if minutes is None else f', {runner.hours(minutes)} of CPU time'}")
    _check(plan, state)
    if state.left:
        _check_left(plan, state)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code, as in ``USAGE``."""
    return run_command(arguments, USAGE, STUDY, study, dry_run, "stopped; the same command continues from there")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
