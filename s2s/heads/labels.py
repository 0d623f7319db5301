"""Where a head's labels come from: a field of the data, or the target (its words, or what it copies of the source)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from s2s.batch import IGNORED
from s2s.data.rows import Example, Value
from s2s.data.sources import Source
from s2s.errors import UserError
from s2s.heads.chains.tag_schemes import Tagged, check_tags
from s2s.metrics.sequences import CommonSubsequences

ABSENT = -1
"""In a set of labels: the set is empty. At a column: the token has a tag, but the train split has no such tag."""
OUTSIDE, BEGIN, INSIDE = range(3)
COPY_TAGS = ["O", "B", "I"]
Label = str | int


class LabelSource(Protocol):
    """The labels of examples: as ids for the loss, and as they are for the scores; both are empty without labels."""

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:
        """Return the row of ids: for taggers the label of each column, or IGNORED; for classifiers a set of labels."""

    def blank(self, source: Source) -> list[int]:
        """Return the row of a source whose labels are to be predicted."""

    def gold(self, example: Example, row: Sequence[int]) -> Sequence[Label] | None:
        """Return the labels of an example with a row of ids; None where it has none to be scored against."""


def value_of(example: Example, field: str) -> Value:
    """Return a field's value in an example."""
    return dict(example.fields)[field]


def tags_of(value: Value) -> list[str]:
    """Return the tags in a field: a list, or a text of tags between blanks."""
    return value.split() if isinstance(value, str) else list(value or ())


def labels_of(value: Value) -> list[str]:
    """Return the labels in a field: a list, or a text that is one label."""
    return [value] if isinstance(value, str) else list(value or ())


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
        # Tags of the train split are all in the index and were checked when it was made; this is for other splits.
        if self.scheme is not None and not self.index.keys() >= set(tags):
            check_tags(self.head, self.scheme, Tagged(example.source, tags))
        if len(tags) != len(tokens):
            raise UserError(
                f"heads.{self.head}.field: {len(tags)} tags in '{self.field}' for {len(tokens)} tokens of the source "
                f"'{example.source[:40]}'"
            )
        row = [IGNORED] * len(source.ids)
        for column, tag in zip(source.starts, tags, strict=False):  # tokens that were cut off have no column
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
        # The head has no score for a label that the train split lacks; ``gold`` keeps such labels for the measures.
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
    """BIO tags of the source's longest common subsequence with the target, one tag a piece."""

    def __call__(self, example: Example, source: Source, target: list[int]) -> list[int]:  # noqa: ARG002
        text = source.ids[source.opening : len(source.ids) - source.closing]
        return [*[IGNORED] * source.opening, *copy_tags(text, target), *[IGNORED] * source.closing]

    def blank(self, source: Source) -> list[int]:
        text = [ABSENT] * (len(source.ids) - source.opening - source.closing)
        return [*[IGNORED] * source.opening, *text, *[IGNORED] * source.closing]

    def gold(self, example: Example, row: Sequence[int]) -> list[str] | None:  # noqa: ARG002
        return [COPY_TAGS[id] for id in row if id != IGNORED] or None


def copy_tags(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """Return a tag for each id of the source, after the copy mechanism of spaces.ac.cn 8046.

    INSIDE where the target copies it and the id before it as neighbours, BEGIN where the target copies it otherwise,
    OUTSIDE elsewhere.
    """
    # With (-1, -1) a first pair of (0, 0) would count as the neighbour of a copy before it.
    tags, before = [OUTSIDE] * len(source), (-2, -2)
    for i, j in CommonSubsequences(source, target).pairs():
        tags[i] = INSIDE if before == (i - 1, j - 1) else BEGIN
        before = i, j
    return tags
