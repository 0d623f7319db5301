"""The rows of a recipe's ``heads:``: taggers of tokens, and classifiers that give a source any number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from s2s.config.ranges import Count, Positive
from s2s.data.rows import Example
from s2s.errors import UserError, nearest
from s2s.heads.base import HeadSettings, Tokens
from s2s.heads.chains.crf import CRF
from s2s.heads.chains.memm import MEMM
from s2s.heads.chains.tag_schemes import SCHEMES, Tagged, check_rows, scheme_constraints
from s2s.heads.labels import (
    COPY_TAGS,
    CopyTags,
    FieldLabels,
    FieldTags,
    LabelSource,
    TargetWords,
    labels_of,
    tags_of,
    value_of,
)
from s2s.heads.modules import BINARY, ZLPR, Classifier, Free, MultiLabel, Softmax, Tagger, Tied
from s2s.heads.scoring import LABEL_MEASURES, SPAN_MEASURES, TAG_MEASURES, Measure


@dataclass
class SoftmaxTagger(HeadSettings):
    """A tag for each token of the source, each independent of the others."""

    scheme: str | None = None  # bio, iob1, bmes, bioes or bilou: tags mark spans, which are scored as well
    rate_multiplier: Positive = 1.0  # of the learning rate of the transitions (crf, memm, bimemm)

    derived: ClassVar[str] = "copy_tags"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise UserError(f"scheme: no '{self.scheme}'{nearest(self.scheme, SCHEMES)}")

    @property
    def tags_tokens(self) -> bool:
        return self.field is not None

    @property
    def constraining(self) -> bool:
        """Whether sequences that the scheme forbids have probability 0."""
        return False

    @property
    def spans(self) -> str | None:
        """The scheme of the tags, if they mark spans."""
        # Derived tags are those of ``copy_tags``, which are BIO.
        return self.scheme if self.field else "bio"

    def names(self, name: str, examples: Sequence[Example]) -> list[str]:
        if self.field is None:
            return COPY_TAGS
        field = self.field
        if self.scheme is not None:
            rows = (Tagged(example.source, tags_of(value_of(example, field))) for example in examples)
            check_rows(name, self.scheme, rows, self.constraining)
        return self._inventory(name, examples, tags_of)

    def source(self, name: str, names: Sequence[str], tokens: Tokens) -> LabelSource:
        return CopyTags() if self.field is None else FieldTags(name, self.field, names, tokens, self.scheme)

    def build(self, width: int, size: int, names: Sequence[str]) -> nn.Module:  # noqa: ARG002
        return Tagger(width, len(names), self.chain(names))

    def chain(self, names: Sequence[str]) -> nn.Module:  # noqa: ARG002
        """Make the model of tag sequences given emissions."""
        return Softmax()

    def metrics(self) -> dict[str, Measure]:
        return (SPAN_MEASURES if self.spans else {}) | TAG_MEASURES


@dataclass
class CRFTagger(SoftmaxTagger):
    """Tags by a conditional random field."""

    boundaries: bool = False  # learned scores of first and last tags
    constrained: bool = False  # tags that the scheme forbids get no probability

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constrained and self.spans is None:
            raise UserError(f"constrained: a scheme ({', '.join(SCHEMES)}) is needed, which says what is forbidden")

    @property
    def constraining(self) -> bool:
        return self.constrained

    def chain(self, names: Sequence[str]) -> nn.Module:
        constraints = scheme_constraints(names, str(self.spans)) if self.constrained else None
        return CRF(len(names), self.boundaries, constraints, self.rate_multiplier)


@dataclass
class MEMMTagger(SoftmaxTagger):
    """Tags by a maximum-entropy Markov model."""

    rank: Count | None = None  # of the transitions; null: a full matrix

    bidirectional: ClassVar[bool] = False

    def chain(self, names: Sequence[str]) -> nn.Module:
        if self.rank is not None and self.rank > len(names):
            raise UserError(f"heads: rank: {self.rank} is above {len(names)}, the number of labels")
        return MEMM(len(names), self.bidirectional, self.rank, self.rate_multiplier)


@dataclass
class BiMEMMTagger(MEMMTagger):
    """Tags by the mean of a MEMM's two directions."""

    bidirectional: ClassVar[bool] = True


@dataclass
class ZLPRClassifier(HeadSettings):
    """Any number of labels for the source, trained to score above 0 (ZLPR)."""

    skip_empty: bool = False  # an empty list means that the labels are unknown, not that there are none

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
    """Any number of labels for the source, by the binary cross-entropy of each label."""

    kind: ClassVar[MultiLabel] = BINARY
