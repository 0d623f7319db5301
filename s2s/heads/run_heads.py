"""The heads of a run, with their inventories of labels: what they learn from, say and are scored by."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from s2s.batch import IGNORED, Batch
from s2s.data.rows import Example
from s2s.data.settings import DataSettings
from s2s.data.sources import SPLITS, Labelling, Source
from s2s.errors import UserError
from s2s.heads.base import HeadSettings, Tokens
from s2s.heads.labels import Label, LabelSource
from s2s.heads.modules import Classifier, Rows, Tagger
from s2s.heads.scoring import RANKED, Gold, HeadOutput, has_real
from s2s.losses.terms import Term
from s2s.model import PrefixTransformer


class Head(NamedTuple):
    """A head of a recipe; ``names`` are its labels, or empty where they are ids of pieces."""

    name: str
    settings: HeadSettings
    names: Sequence[str]
    source: LabelSource


def make_heads(
    settings: Mapping[str, HeadSettings], names: Mapping[str, Sequence[str]], data: DataSettings
) -> list[Head]:
    """The heads of a recipe's settings, given their inventories.

    Errors: a UserError for a head without one, as a recipe may be edited after its run began.
    """
    if unknown := [name for name in settings if name not in names]:
        raise UserError(
            f"heads.{unknown[0]}: the run's labels, in run.json, have none for this head; "
            f"take it out of the recipe, or train a run with it"
        )
    tokens = tokens_of(data)
    return [Head(name, head, names[name], head.source(name, names[name], tokens)) for name, head in settings.items()]


def tokens_of(data: DataSettings) -> Tokens:
    """The tokens of an example: those that it was given as, or those that its text falls into."""
    return lambda example: example.tokens or SPLITS[data.split](example.source)


def labelling_of(heads: Sequence[Head], data: DataSettings) -> Labelling:
    """What the heads want of the data."""
    tokens = tokens_of(data) if any(head.settings.tags_tokens for head in heads) else None
    return Labelling([head.source for head in heads], tokens)


def to_label(heads: Sequence[Head], source: Source) -> list[list[int]]:
    """The rows of labels of a source, for which the heads are to find some."""
    return [head.source.blank(source) for head in heads]


class Heads(nn.Module):
    """The modules of the heads, over one encoded source."""

    def __init__(self, heads: Sequence[Head], width: int, size: int) -> None:
        super().__init__()
        self.heads = list(heads)
        self.weights = {head.name: head.settings.weight for head in heads}
        self.parts = nn.ModuleList(head.settings.build(width, size, head.names) for head in heads)

    def terms(self, rows: Rows, batch: Batch) -> dict[str, Term]:
        """The loss of each head, not yet weighted."""
        pairs = zip(self.heads, self.parts, batch.heads, strict=True)
        return {head.name: Term(_loss(part, rows, labels), str(part.unit)) for head, part, labels in pairs}

    def say(self, rows: Rows, batch: Batch) -> list[list[HeadOutput]]:
        """What each head says of each row, in the precision of the rows."""
        pairs = zip(self.heads, self.parts, batch.heads, strict=True)
        return [_said(head, part, rows, labels) for head, part, labels in pairs]


def _loss(part: nn.Module, rows: Rows, labels: Tensor) -> Tensor:
    return cast(Any, part).loss(rows, labels)


def _said(head: Head, part: nn.Module, rows: Rows, labels: Tensor) -> list[HeadOutput]:
    if isinstance(part, Tagger):
        found = part.predict(rows, labels != IGNORED)
        return [HeadOutput([head.names[tag] for tag in row]) for row in found]
    assert isinstance(part, Classifier)
    return [_chosen(head, part, scores) for scores in part.scores(rows)]


def _chosen(head: Head, part: Classifier, scores: Tensor) -> HeadOutput:
    """The labels whose scores are above 0."""
    count = max(int((scores > 0).sum()), min(RANKED, len(scores)))
    best, index = scores.topk(count)
    names: list[Label] = [head.names[label] if head.names else label for label in index.tolist()]
    chosen = int((best > 0).sum())
    return HeadOutput(names[:chosen], part.kind.probabilities(best[:chosen]).tolist(), names[:RANKED])


def scores(head: Head, said: Sequence[HeadOutput], gold: Gold) -> dict[str, float]:
    """Return the scores of what a head says, each name after the head's own.

    Where no example has a label (of spans: no example a span) there is none of them: the mean of nothing is no number.
    """
    measures = {name: measure for name, measure in head.settings.metrics().items() if has_real(name, gold)}
    return {f"{head.name}.{name}": measure(said, gold) for name, measure in measures.items()}


def gold_of(head: Head, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> list[Sequence[Label] | None]:
    """The true labels of examples with rows of ids; None where there are none."""
    return [head.source.gold(example, row) for example, row in zip(examples, rows, strict=True)]


def rows_of(model: PrefixTransformer, batch: Batch) -> Rows:
    """What heads read of a batch's sources."""
    hidden = model.source_hidden(batch.source, batch.source_lengths)
    return Rows(hidden, batch.source_lengths, model.embedding.tokens.weight)
