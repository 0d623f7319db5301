"""The settings that all rows of a recipe's ``heads:`` share, and the methods by which each builds its head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from s2s.config.ranges import Strength, settle
from s2s.data.rows import Example, Value
from s2s.errors import UserError, nearest
from s2s.heads.labels import LabelSource, value_of
from s2s.heads.scoring import Measure

Tokens = Callable[[Example], Sequence[str]]


@dataclass
class HeadSettings:
    """The keys that all heads have. Labels come from a field of the data, or are derived from the target."""

    weight: Strength = 1.0  # of the head's loss, added to the generation's
    field: str | None = None  # of the data
    labels: str | None = None  # derived: target_words for classifiers, copy_tags for taggers

    derived: ClassVar[str] = ""

    def __post_init__(self) -> None:
        settle(self)
        if (self.field is None) == (self.labels is None):
            raise UserError(f"field: either a field of the data or labels: {self.derived} is needed, and not both")
        if self.labels not in (None, self.derived):
            raise UserError(f"labels: no '{self.labels}' for this head{nearest(str(self.labels), [self.derived])}")

    @property
    def tags_tokens(self) -> bool:
        """Whether the source is read as tokens, each with a tag."""
        return False

    def has_labels(self, example: Example) -> bool:
        """Return whether a field of the example holds labels."""
        return self.field is not None and bool(value_of(example, self.field))

    def names(self, name: str, examples: Sequence[Example]) -> list[str]:
        """Return the inventory of labels, that of the train split; derived labels that are pieces have none."""
        raise NotImplementedError  # each row of s2s.heads.HEADS has its own

    def source(self, name: str, names: Sequence[str], tokens: Tokens) -> LabelSource:
        """Return where the labels come from."""
        raise NotImplementedError  # each row of s2s.heads.HEADS has its own

    def build(self, width: int, size: int, names: Sequence[str]) -> nn.Module:
        """Make the untrained head for a model of a width and a vocabulary of a size."""
        raise NotImplementedError  # each row of s2s.heads.HEADS has its own

    def metrics(self) -> dict[str, Measure]:
        """Return the scores by their names, the most telling one first."""
        raise NotImplementedError  # each row of s2s.heads.HEADS has its own

    def _inventory(self, name: str, examples: Sequence[Example], read: Callable[[Value], list[str]]) -> list[str]:
        field = str(self.field)
        labels = {label for example in examples for label in read(value_of(example, field))}
        if not labels:
            raise UserError(f"heads.{name}.field: no train example has a label in '{field}'")
        return sorted(labels)
