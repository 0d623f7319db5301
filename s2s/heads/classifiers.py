"""Rows of a recipe's ``heads:`` that give sources any number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from s2s.data.rows import Example
from s2s.heads.base import HeadSettings, Tokens
from s2s.heads.labels import FieldLabels, LabelSource, TargetWords, labels_of, value_of
from s2s.heads.modules import BINARY, ZLPR, Classifier, Free, MultiLabel, Tied
from s2s.heads.scoring import LABEL_MEASURES, Measure


@dataclass
class ZLPRClassifier(HeadSettings):
    """Any number of labels for the source, trained to score above 0 (ZLPR)."""

    skip_empty: bool = False  # an empty list means that the labels are unknown, not that there is none

    derived: ClassVar[str] = "target_words"
    kind: ClassVar[MultiLabel] = ZLPR

    def has_labels(self, example: Example) -> bool:
        value = None if self.field is None else value_of(example, self.field)
        return bool(value) if self.skip_empty else value is not None

    def names(self, name: str, examples: Sequence[Example]) -> list[str]:
        return [] if self.field is None else self._inventory(name, examples, labels_of)

    def source(self, name: str, names: Sequence[str], tokens: Tokens) -> LabelSource:  # noqa: ARG002
        return TargetWords() if self.field is None else FieldLabels(self.field, names, self.skip_empty)

    def build(self, width: int, size: int, names: Sequence[str]) -> nn.Module:
        return Classifier(Tied(width, size) if self.field is None else Free(width, len(names)), self.kind)

    def metrics(self) -> dict[str, Measure]:
        return LABEL_MEASURES


@dataclass
class BinaryClassifier(ZLPRClassifier):
    """The same with the binary cross-entropy of each label."""

    kind: ClassVar[MultiLabel] = BINARY
