"""What a finished run says, and the average of its last checkpoints."""

from pathlib import Path

from s2s.objective import Objective
from s2s.runs import averaging, checkpoints
from s2s.training.evaluation import evaluate
from s2s.training.launch import wait_for_all
from s2s.training.reporter import Reporter
from s2s.training.setup import Prepared
from s2s.training.state import State


def dev_scores(prepared: Prepared, objective: Objective) -> dict[str, float]:
    """The scores of the dev split with an objective's weights."""
    examples, tokens, precision = prepared.dataset.dev, prepared.dev, prepared.precision
    recipe, vocabulary = prepared.recipe, prepared.vocabulary
    return evaluate(prepared.accelerator, objective, vocabulary, recipe, examples, tokens, precision)


def shown(scores: dict[str, float]) -> str:
    """Scores as a line."""
    return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())


def finish(prepared: Prepared, state: State, reporter: Reporter) -> None:
    """Say how the run has ended and average its last checkpoints, if that is asked for and not yet done."""
    run, folder = state.run, Path(state.run.folder)
    if run.average is not None and checkpoints.step_of_link(folder, "average") != state.step:
        _average(prepared, state, reporter, run.average)
    if state.best is not None:
        early = f" early, after {state.waited} evaluations without a better one (run.patience)"
        reporter.log(
            f"{folder}: finished at step {state.step}{early if state.stopped_early else ''}; best {run.select} "
            f"{state.best.value:.3f} at step {state.best.step}"
        )


def _average(prepared: Prepared, state: State, reporter: Reporter, last: int) -> None:
    """Every process computes the same average; the main one keeps it."""
    folder, accelerator = Path(state.run.folder), prepared.accelerator
    found, steps = averaging.average(folder, min(last, len(checkpoints.whole(folder))))
    wait_for_all()
    state.objective.load_state_dict(found)
    reporter.log(
        f"average of the steps {', '.join(map(str, steps))}: dev {shown(dev_scores(prepared, state.objective))}"
    )
    if accelerator.is_main_process:
        averaging.save(folder, found, steps)
    wait_for_all()
