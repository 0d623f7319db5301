"""Where a head's labels come from: a field of the data, or the target. Each source of labels is a ``Labeller``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from s2s.batch import IGNORED
from s2s.data.rows import Example, Value
from s2s.data.sources import Source
from s2s.errors import UserError
from s2s.heads import copies
from s2s.heads.tag_checks import Tagged, check_named

ABSENT = -1
"""In a set of labels: there is none. At a column: there is a tag, but none that is known."""
Label = str | int


class LabelSource(Protocol):
    """The labels of examples: ids for the loss, and as they are for the scores; both empty where there are none."""

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:
        """The row of ids: a column's label each for taggers, with IGNORED between; the labels of a set for others."""

    def blank(self, source: Source) -> list[int]:
        """The row of a source whose labels are to be predicted."""

    def gold(self, example: Example, row: Sequence[int]) -> Sequence[Label] | None:
        """The labels of an example with a row of ids; None where it has none to be scored against."""


def value_of(example: Example, field: str) -> Value:
    """A field's value in an example."""
    return dict(example.fields)[field]


def tags_of(value: Value) -> list[str]:
    """The tags in a field: a list, or a text of tags between blanks."""
    return value.split() if isinstance(value, str) else list(value or ())


def labels_of(value: Value) -> list[str]:
    """The labels in a field: a list, or a text that is one label."""
    return [value] if isinstance(value, str) else list(value or ())


def inventory(examples: Iterable[Example], field: str, read: Callable[[Value], list[str]]) -> list[str]:
    """The labels that occur in a field, sorted."""
    return sorted({label for example in examples for label in read(value_of(example, field))})


@dataclass
class FieldTags:
    """A tag for each token of the source, at the column of its first piece."""

    head: str
    field: str
    names: Sequence[str]
    tokens: Callable[[Example], Sequence[str]]
    scheme: str | None = None  # a row of SCHEMES

    def __post_init__(self) -> None:
        self.index = {name: number for number, name in enumerate(self.names)}

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:  # noqa: ARG002
        tags, tokens = self.gold(example), self.tokens(example)
        if tags is None:
            return []
        if self.scheme is not None and not self.index.keys() >= set(tags):
            check_named(self.head, self.scheme, Tagged(example.source, tags))  # training tags were checked before
        if len(tags) != len(tokens):
            raise UserError(
                f"heads.{self.head}.field: {len(tags)} tags in '{self.field}' for {len(tokens)} tokens of the source "
                f"'{example.source[:40]}'"
            )
        row = [IGNORED] * len(source.ids)
        for column, tag in zip(source.starts, tags, strict=False):  # what the cut lost has no column
            row[column] = self.index.get(tag, ABSENT)
        return row

    def blank(self, source: Source) -> list[int]:
        starts = set(source.starts)
        return [ABSENT if column in starts else IGNORED for column in range(len(source.ids))]

    def gold(self, example: Example, row: Sequence[int] = ()) -> list[str] | None:  # noqa: ARG002
        return tags_of(value_of(example, self.field)) or None


@dataclass
class FieldLabels:
    """A set of labels for the source."""

    field: str
    names: Sequence[str]
    skip_empty: bool

    def __post_init__(self) -> None:
        self.index = {name: number for number, name in enumerate(self.names)}

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:  # noqa: ARG002
        labels = self.gold(example)
        if labels is None:
            return []
        return sorted({self.index[label] for label in labels if label in self.index}) or [ABSENT]

    def blank(self, source: Source) -> list[int]:  # noqa: ARG002
        return [ABSENT]

    def gold(self, example: Example, row: Sequence[int] = ()) -> list[str] | None:  # noqa: ARG002
        value = value_of(example, self.field)
        return None if value is None or (self.skip_empty and not value) else labels_of(value)


class TargetWords:
    """The pieces of the vocabulary that the target uses: a bag of words."""

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:  # noqa: ARG002
        return sorted(set(target)) or [ABSENT]

    def blank(self, source: Source) -> list[int]:  # noqa: ARG002
        return [ABSENT]

    def gold(self, example: Example, row: Sequence[int]) -> list[int]:  # noqa: ARG002
        return [id for id in row if id >= 0]


class CopyTags:
    """BIO tags of the source's longest common subsequence with the target, a tag a piece."""

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:  # noqa: ARG002
        return [IGNORED, *copies.copy_tags(source.ids[1:-1], target), IGNORED]

    def blank(self, source: Source) -> list[int]:
        return [IGNORED, *[ABSENT] * (len(source.ids) - 2), IGNORED]

    def gold(self, example: Example, row: Sequence[int]) -> list[str] | None:  # noqa: ARG002
        return [copies.NAMES[id] for id in row if id != IGNORED] or None
