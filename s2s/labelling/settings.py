"""Heads as rows of a recipe's ``heads:``: what each is called, where its labels come from and what it builds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from torch import nn

from s2s.data.rows import Example, Value
from s2s.errors import UserError, nearest
from s2s.heads import CRF, MEMM, Constraints, bio_constraints, bmes_constraints
from s2s.labelling import copies
from s2s.labelling.labels import (
    CopyTags,
    FieldLabels,
    FieldTags,
    LabelSource,
    TargetWords,
    inventory,
    labels_of,
    tags_of,
    value_of,
)
from s2s.labelling.modules import BINARY, ZLPR, Classifier, Free, MultiLabel, Softmax, Tagger, Tied
from s2s.labelling.scoring import LABEL_MEASURES, SPAN_MEASURES, TAG_MEASURES, Measure

Tokens = Callable[[Example], Sequence[str]]
SCHEMES: dict[str, Callable[[Sequence[str]], Constraints]] = {"bio": bio_constraints, "bmes": bmes_constraints}


@dataclass
class HeadSettings:
    """The keys that all heads have; the labels are those of a field of the data, or derived from the target."""

    weight: float = 1.0  # of the head's loss, added to the generation's
    field: str | None = None  # of the data
    labels: str | None = None  # derived: target_words for classifiers, copy_tags for taggers

    derived: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and isfinite(self.weight)):
            raise UserError(f"weight: {self.weight} is not at least 0")
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


@dataclass
class SoftmaxTagger(HeadSettings):
    """``softmax``: a tag for each token of the source, each on its own."""

    scheme: str | None = None  # bio or bmes: tags mark spans, which are scored too
    rate_multiplier: float = 1.0  # of the learning rate of transitions, where there are any

    derived: ClassVar[str] = "copy_tags"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise UserError(f"scheme: no '{self.scheme}'{nearest(self.scheme, SCHEMES)}")
        if not self.rate_multiplier > 0:
            raise UserError(f"rate_multiplier: {self.rate_multiplier} is not above 0")

    @property
    def tags_tokens(self) -> bool:
        return self.field is not None

    def names(self, name: str, examples: Sequence[Example]) -> list[str]:
        return copies.NAMES if self.field is None else self._inventory(name, examples, tags_of)

    def source(self, name: str, names: Sequence[str], tokens: Tokens) -> LabelSource:
        return CopyTags() if self.field is None else FieldTags(name, self.field, names, tokens)

    def build(self, width: int, size: int, names: Sequence[str]) -> nn.Module:  # noqa: ARG002
        return Tagger(width, len(names), self.chain(names))

    def chain(self, names: Sequence[str]) -> nn.Module:  # noqa: ARG002
        """What makes tags of emissions."""
        return Softmax()

    def metrics(self) -> dict[str, Measure]:
        return (SPAN_MEASURES if self.spans else {}) | TAG_MEASURES

    @property
    def spans(self) -> str | None:
        """The scheme of the tags, if they mark spans."""
        return self.scheme if self.field else "bio"


@dataclass
class CRFTagger(SoftmaxTagger):
    """``crf``: a conditional random field."""

    boundaries: bool = False  # learned scores of first and last tags
    constrained: bool = False  # tags that the scheme forbids get no probability

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constrained and self.spans is None:
            raise UserError("constrained: a scheme (bio or bmes) is needed, which says what is forbidden")

    def chain(self, names: Sequence[str]) -> nn.Module:
        constraints = SCHEMES[str(self.spans)](names) if self.constrained else None
        return CRF(len(names), self.boundaries, constraints, self.rate_multiplier)


@dataclass
class MEMMTagger(SoftmaxTagger):
    """``memm``: a maximum-entropy Markov model."""

    rank: int | None = None  # of the transitions; null: a full matrix

    bidirectional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank < 1:
            raise UserError(f"rank: {self.rank} is not at least 1")

    def chain(self, names: Sequence[str]) -> nn.Module:
        if self.rank is not None and self.rank > len(names):
            raise UserError(f"heads: rank: {self.rank} is above {len(names)}, the number of labels")
        return MEMM(len(names), self.bidirectional, self.rank, self.rate_multiplier)


@dataclass
class BiMEMMTagger(MEMMTagger):
    """``bimemm``: the mean of a MEMM's two directions."""

    bidirectional: ClassVar[bool] = True


@dataclass
class ZLPRClassifier(HeadSettings):
    """``zlpr``: any number of labels for the source, those that score above 0."""

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
    """``bce``: the same with the binary cross-entropy of each label."""

    kind: ClassVar[MultiLabel] = BINARY


HEADS: dict[str, type[HeadSettings]] = {
    "softmax": SoftmaxTagger,
    "crf": CRFTagger,
    "memm": MEMMTagger,
    "bimemm": BiMEMMTagger,
    "zlpr": ZLPRClassifier,
    "bce": BinaryClassifier,
}
