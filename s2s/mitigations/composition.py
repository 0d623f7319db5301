"""Which methods may stand together: any number of feeds and at most one shaper of the loss."""

from s2s.errors import UserError
from s2s.mitigations.base import Composition, Feed, Shaper


def check(composition: Composition, names: list[str]) -> None:
    """Refuse a composition without a meaning; the error names the method's place in the recipe and the reason."""
    shapers = [index for index, method in enumerate(composition.mitigations) if isinstance(method, Shaper)]
    if len(shapers) > 1:
        first, second = (names[index] for index in shapers[:2])
        raise UserError(
            f"mitigations[{shapers[1]}]: '{second}' shapes the loss, and so does '{first}'; "
            "a recipe has any number of feeds but at most one shaper"
        )
    for index in shapers:
        if composition.fused and _all_scored(composition):
            raise UserError(
                f"mitigations[{index}]: '{names[index]}': it works on the scores, which a kernel does not show; "
                "set run.fused_loss=false"
            )
    for index, method in enumerate(composition.mitigations):
        if reason := method.refuse(composition):
            raise UserError(f"mitigations[{index}]: '{names[index]}': {reason}")


def _all_scored(composition: Composition) -> bool:
    """Whether a shaper leaves no loss without scores; feeds of a weight below 1 add teacher forcing, which has none."""
    methods = composition.mitigations
    anchored = any(isinstance(method, Feed) and 0 < method.weight < 1 for method in methods)
    return not anchored and any(isinstance(method, Shaper) and method.needs_scores() for method in methods)
