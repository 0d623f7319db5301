"""Heads as rows of a recipe's ``heads:``: what each is called, where its labels come from and what it builds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from s2s.config.ranges import Strength, settle
from s2s.data.rows import Example, Value
from s2s.errors import UserError, nearest
from s2s.heads.labels import LabelSource, inventory, value_of
from s2s.heads.scoring import Measure

Tokens = Callable[[Example], Sequence[str]]


@dataclass
class HeadSettings:
    """The keys that all heads have; the labels are those of a field of the data, or derived from the target."""

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
        """Whether the source is to be read as tokens, each with a tag."""
        return False

    def has_labels(self, example: Example) -> bool:
        """Whether a field of the example holds labels."""
        return self.field is not None and bool(value_of(example, self.field))

    def names(self, name: str, examples: Sequence[Example]) -> list[str]:
        """The inventory of labels, that of the train split; derived labels that are pieces have none."""
        raise NotImplementedError

    def source(self, name: str, names: Sequence[str], tokens: Tokens) -> LabelSource:
        """Where the labels come from."""
        raise NotImplementedError

    def build(self, width: int, size: int, names: Sequence[str]) -> nn.Module:
        """The untrained head over rows of a width, for a vocabulary of a size."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Measure]:
        """The scores by their names, the most telling one first."""
        raise NotImplementedError

    def _inventory(self, name: str, examples: Sequence[Example], read: Callable[[Value], list[str]]) -> list[str]:
        found = inventory(examples, str(self.field), read)
        if not found:
            raise UserError(f"heads.{name}.field: no train example has a label in '{self.field}'")
        return found
