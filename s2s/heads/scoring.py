"""What heads say of sources, and how that is scored; all scores are in 0..100."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from s2s.heads.labels import Label
from s2s.metrics import tags

RANKED = 5
"""How many labels of a ranking are kept, whether they are chosen or not."""


class HeadOutput(NamedTuple):
    """What a head says of a source: tags in order, or the chosen labels with their probabilities, best first.

    ``ranking`` has the ``RANKED`` most likely labels, chosen or not.
    """

    labels: Sequence[Label | None]
    scores: Sequence[float] = ()
    ranking: Sequence[Label] = ()


Gold = Sequence[Sequence[Label]]
Measure = Callable[[Sequence[HeadOutput], Gold], float]


def whole(said: Sequence[HeadOutput], gold: Gold) -> list[list[Any]]:
    """The tags of each source; those of tokens that a cut has lost are None, which is never right."""
    return [[*each.labels, *[None] * (len(real) - len(each.labels))] for each, real in zip(said, gold, strict=True)]


def _chosen(said: Sequence[HeadOutput]) -> list[Sequence[Label | None]]:
    return [each.labels for each in said]


def _precision_at(k: int) -> Measure:
    return lambda said, gold: tags.precision_at(k, [each.ranking for each in said], gold)


SPAN_MEASURES: dict[str, Measure] = {"entity_f1": lambda said, gold: tags.entity_f1(whole(said, gold), _plain(gold))}
TAG_MEASURES: dict[str, Measure] = {
    "accuracy": lambda said, gold: tags.accuracy(whole(said, gold), gold),
    "macro_f1": lambda said, gold: tags.tag_macro_f1(whole(said, gold), gold),
}
LABEL_MEASURES: dict[str, Measure] = {
    "micro_f1": lambda said, gold: tags.micro_f1(_chosen(said), gold),
    "macro_f1": lambda said, gold: tags.macro_f1(_chosen(said), gold),
    "precision_at_1": _precision_at(1),
    "precision_at_5": _precision_at(RANKED),
}


def has_real(name: str, gold: Gold) -> bool:
    """Return whether there is anything that a measure of this name could find."""
    if name in SPAN_MEASURES:
        return any(label != "O" for row in gold for label in row)
    return any(map(len, gold))


def _plain(gold: Gold) -> list[list[Any]]:
    return [list(row) for row in gold]
