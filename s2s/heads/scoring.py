"""The output of heads for a source, and the measures that score it, all in 0..100."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from s2s.heads.labels import Label
from s2s.metrics import tags
from s2s.metrics.bootstrap import Numbers

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


@dataclass(frozen=True)
class SummedMeasure:
    """A ``Measure`` that is a function of sums over sources, which significance tests can resample."""

    title: str
    sums: Callable[[Sequence[HeadOutput], Gold], Numbers]  # of each source, [N, F]
    of_total: Callable[[Numbers], Numbers]  # totals [..., F] to scores [...]

    def __call__(self, outputs: Sequence[HeadOutput], gold: Gold) -> float:
        return float(self.of_total(self.sums(outputs, gold).sum(axis=0)))


def _tags(outputs: Sequence[HeadOutput], gold: Gold) -> list[list[Any]]:
    """Return the tags of each source; tokens that were cut off get None, which is never right."""
    pairs = zip(outputs, gold, strict=True)
    return [[*output.labels, *[None] * (len(labels) - len(output.labels))] for output, labels in pairs]


def _spans(outputs: Sequence[HeadOutput], gold: Gold) -> Numbers:
    plain: list[list[Any]] = [list(row) for row in gold]
    return tags.span_sums(_tags(outputs, gold), plain)


def _chosen(outputs: Sequence[HeadOutput]) -> list[Sequence[Label | None]]:
    return [output.labels for output in outputs]


def _precision_at(k: int) -> SummedMeasure:
    def sums(outputs: Sequence[HeadOutput], gold: Gold) -> Numbers:
        return tags.precision_sums(k, [output.ranking for output in outputs], gold)

    return SummedMeasure(f"precision at {k}", sums, tags.share)


SPAN_MEASURES: dict[str, Measure] = {"entity_f1": SummedMeasure("F1 of spans", _spans, tags.f1)}
TAG_MEASURES: dict[str, Measure] = {
    "accuracy": SummedMeasure(
        "accuracy of tags", lambda outputs, gold: tags.token_sums(_tags(outputs, gold), gold), tags.share
    ),
    "macro_f1": lambda outputs, gold: tags.tag_macro_f1(_tags(outputs, gold), gold),
}
LABEL_MEASURES: dict[str, Measure] = {
    "micro_f1": SummedMeasure(
        "micro F1 of labels", lambda outputs, gold: tags.label_sums(_chosen(outputs), gold), tags.f1
    ),
    "macro_f1": lambda outputs, gold: tags.macro_f1(_chosen(outputs), gold),
    "precision_at_1": _precision_at(1),
    "precision_at_5": _precision_at(RANKED),
}


def with_sums(measures: Mapping[str, Measure]) -> dict[str, SummedMeasure]:
    """Return the measures that are functions of sums."""
    return {name: measure for name, measure in measures.items() if isinstance(measure, SummedMeasure)}


SUMMED = with_sums(SPAN_MEASURES | TAG_MEASURES | LABEL_MEASURES)
"""All measures of heads that are functions of sums, by name."""


def can_measure(name: str, gold: Gold) -> bool:
    """Return whether the gold labels hold anything that the measure of this name could find."""
    if name in SPAN_MEASURES:
        return any(label != "O" for row in gold for label in row)
    return any(map(len, gold))
