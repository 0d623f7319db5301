"""The output of heads for a source, and the measures that score it, all in 0..100."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from s2s.heads.labels import Label
from s2s.metrics import tags

RANKED = 5
"""How many labels of a ranking are kept, whether they are chosen or not."""


class HeadOutput(NamedTuple):
    """The output of a head for a source: tags in order, or the chosen labels with their probabilities, best first.

    ``ranking`` has the ``RANKED`` most likely labels, chosen or not.
    """

    labels: Sequence[Label | None]
    scores: Sequence[float] = ()
    ranking: Sequence[Label] = ()


Gold = Sequence[Sequence[Label]]
Measure = Callable[[Sequence[HeadOutput], Gold], float]


def _tags(outputs: Sequence[HeadOutput], gold: Gold) -> list[list[Any]]:
    """Return the tags of each source; tokens that were cut off get None, which is never right."""
    pairs = zip(outputs, gold, strict=True)
    return [[*output.labels, *[None] * (len(labels) - len(output.labels))] for output, labels in pairs]


def _chosen(outputs: Sequence[HeadOutput]) -> list[Sequence[Label | None]]:
    return [output.labels for output in outputs]


def _precision_at(k: int) -> Measure:
    return lambda outputs, gold: tags.precision_at(k, [output.ranking for output in outputs], gold)


def _entity_f1(outputs: Sequence[HeadOutput], gold: Gold) -> float:
    plain: list[list[Any]] = [list(row) for row in gold]
    return tags.entity_f1(_tags(outputs, gold), plain)


SPAN_MEASURES: dict[str, Measure] = {"entity_f1": _entity_f1}
TAG_MEASURES: dict[str, Measure] = {
    "accuracy": lambda outputs, gold: tags.accuracy(_tags(outputs, gold), gold),
    "macro_f1": lambda outputs, gold: tags.tag_macro_f1(_tags(outputs, gold), gold),
}
LABEL_MEASURES: dict[str, Measure] = {
    "micro_f1": lambda outputs, gold: tags.micro_f1(_chosen(outputs), gold),
    "macro_f1": lambda outputs, gold: tags.macro_f1(_chosen(outputs), gold),
    "precision_at_1": _precision_at(1),
    "precision_at_5": _precision_at(RANKED),
}


def can_measure(name: str, gold: Gold) -> bool:
    """Return whether the gold labels hold anything that the measure of this name could find."""
    if name in SPAN_MEASURES:
        return any(label != "O" for row in gold for label in row)
    return any(map(len, gold))
