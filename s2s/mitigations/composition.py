"""Which methods may stand together: any number of feeds and at most one shaper of the loss."""

from s2s.errors import UserError
from s2s.mitigations.base import Composition, LossMethod


def check(composition: Composition, names: list[str]) -> None:
    """Refuse a composition without a meaning; the error names the method's place in the recipe and the reason."""
    shapers = [index for index, method in enumerate(composition.mitigations) if isinstance(method, LossMethod)]
    if len(shapers) > 1:
        first, second = (names[index] for index in shapers[:2])
        raise UserError(
            f"mitigations[{shapers[1]}]: '{second}' shapes the loss, and so does '{first}'; "
            "a recipe has any number of feeds but at most one shaper"
        )
    if composition.fused and shapers:
        name = names[shapers[0]]
        raise UserError(f"run.fused_loss: it computes teacher forcing's loss, and '{name}' makes another of the scores")
    for index, method in enumerate(composition.mitigations):
        if reason := method.refuse(composition):
            raise UserError(f"mitigations[{index}]: '{names[index]}': {reason}")
