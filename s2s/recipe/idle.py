"""What is asked and does nothing: a line for each, told at the start of a run and of decoding."""

import math
from collections.abc import Iterator
from typing import Any

from s2s.search.methods.base import SearchMethod


def most_hypotheses(search: SearchMethod) -> int:
    """Return how many hypotheses of a source a search gives at most."""
    names = ("n_best", "groups", "samples")
    given = [value for name in names if (value := getattr(search, name, None)) is not None]
    return given[0] if given else 1


def idle_search(search: SearchMethod, longest: int) -> list[str]:
    """Return lines on keys of a search that change nothing beside its other keys; ``longest`` is in tokens."""
    return [f"search.{key}: {getattr(search, key)} does nothing {why}" for key, why in _idle_search(search, longest)]


def _idle_search(search: SearchMethod, longest: int) -> Iterator[tuple[str, str]]:
    one = getattr(search, "beams", None) == 1 and not hasattr(search, "groups")
    for key in ("length_penalty", "translation_alpha", "word_reward", "coverage_penalty"):
        if one and getattr(search, key, None):
            yield key, "to what is found by one beam, only to the score that is told"
    if one and getattr(search, "stop", "safe") != "safe":
        yield "stop", "with one beam, which ends with its first hypothesis"
    if getattr(search, "groups", 2) == 1 and getattr(search, "strength", 0):
        yield "strength", "with one group"
    if search.min_length > longest:
        yield "min_length", f"beyond the {longest} tokens that a hypothesis may have"


def idle_run(recipe: Any) -> list[str]:
    """Return lines on keys of a recipe that change nothing in its run, or less than they say."""
    return [f"{key}: {why}" for key, why in _idle_run(recipe)]


def _idle_run(recipe: Any) -> Iterator[tuple[str, str]]:
    run, schedule = recipe.run, recipe.schedule
    if schedule.warmup >= run.steps:
        share = schedule.factor(run.steps - 1, run.steps)
        yield (
            "schedule.warmup",
            f"{schedule.warmup} steps of {run.steps}: the rate reaches {share:.0%} of optimizer.rate",
        )
    for index, method in enumerate(recipe.mitigations):
        key = f"mitigations[{index}]"
        if method.start_step >= run.steps:
            yield (
                f"{key}.start_step",
                f"{method.start_step}, but the run has {run.steps} steps: the method never starts",
            )
        elif method.start_step + method.ramp_steps > run.steps:
            yield (
                f"{key}.ramp_steps",
                f"the ramp ends after step {method.start_step + method.ramp_steps}, not in this run",
            )
    evaluations = math.ceil(run.steps / run.evaluate_every)
    if run.patience is not None and run.patience >= evaluations:
        yield "run.patience", f"{run.patience}, but the run has {evaluations} evaluations: it cannot end early"
    saves = math.ceil(run.steps / run.save_every)
    if run.average is not None and run.average > saves:
        yield "run.average", f"{run.average}, but {run.steps} steps save {saves} checkpoints at run.save_every"
    if run.checkpointing == "none" and run.checkpointing_every > 1:
        yield "run.checkpointing_every", "it does nothing at run.checkpointing: none"
    if recipe.generates:
        for line in idle_search(recipe.search, recipe.search.max_length or recipe.data.max_target):
            key, _, why = line.partition(": ")
            yield key, why
