"""Settings that are given and have no effect: one line for each, printed when a run or decoding starts."""

import math
from collections.abc import Iterator

from s2s.data.settings import TaskSettings
from s2s.recipe.recipe import Recipe
from s2s.search.methods.base import SearchMethod


def most_hypotheses(search: SearchMethod) -> int:
    """Return how many hypotheses of a source a search gives at most."""
    names = ("n_best", "groups", "samples")
    return next((count for name in names if (count := getattr(search, name, None)) is not None), 1)


def idle_search(search: SearchMethod, longest: int) -> list[str]:
    """Return lines on keys of a search that its other keys leave without effect; ``longest`` is in tokens."""
    return [f"search.{key}: {getattr(search, key)} does nothing {why}" for key, why in _idle_search(search, longest)]


def _idle_search(search: SearchMethod, longest: int) -> Iterator[tuple[str, str]]:
    one_beam = getattr(search, "beams", None) == 1 and not hasattr(search, "groups")
    for key in ("length_penalty", "translation_alpha", "word_reward", "coverage_penalty"):
        if one_beam and getattr(search, key, None):
            yield key, "to what is found by one beam; it only changes the score that is written"
    if one_beam and getattr(search, "stop", "safe") != "safe":
        yield "stop", "with one beam, which ends with its first hypothesis"
    if getattr(search, "groups", 2) == 1 and getattr(search, "strength", 0):
        yield "strength", "with one group"
    if search.min_length > longest:
        yield "min_length", f"beyond the {longest} tokens that a hypothesis may have"


def idle_run(recipe: Recipe) -> list[str]:
    """Return lines on keys of a recipe that have no effect in its run, or less than they say."""
    lines = [f"{key}: {why}" for key, why in _idle_run(recipe)]
    if recipe.generates:
        lines += idle_search(recipe.search, recipe.search.max_length or recipe.data.max_target)
    return lines


def _idle_run(recipe: Recipe) -> Iterator[tuple[str, str]]:
    run, schedule = recipe.run, recipe.schedule
    if (warmup := schedule.warmup) >= run.steps:
        share = schedule.factor(run.steps - 1, run.steps)
        yield "schedule.warmup", f"{warmup} steps of {run.steps}: the rate reaches {share:.0%} of optimizer.rate"
    for index, method in enumerate(recipe.mitigations):
        key, start, end = f"mitigations[{index}]", method.start_step, method.start_step + method.ramp_steps
        if start >= run.steps:
            yield f"{key}.start_step", f"{start}, but the run has {run.steps} steps: the method never starts"
        elif end > run.steps:
            yield f"{key}.ramp_steps", f"the ramp ends after step {end}, not in this run"
    if recipe.data.source != "synthetic" and recipe.data.task != TaskSettings():
        yield "data.task", "it does nothing without data.source: synthetic"
    evaluations, saves = math.ceil(run.steps / run.evaluate_every), math.ceil(run.steps / run.save_every)
    if run.patience is not None and run.patience >= evaluations:
        yield "run.patience", f"{run.patience}, but the run has {evaluations} evaluations: it cannot end early"
    if run.average is not None and run.average > saves:
        yield "run.average", f"{run.average}, but {run.steps} steps save {saves} checkpoints at run.save_every"
    if run.checkpointing == "none" and run.checkpointing_every > 1:
        yield "run.checkpointing_every", "it does nothing at run.checkpointing: none"
