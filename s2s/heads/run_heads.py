"""The heads of a run with their inventories of labels: their losses and their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from s2s.batch import IGNORED, Batch
from s2s.data.settings import DataSettings
from s2s.data.sources import TOKEN_SPLITS, Labelling
from s2s.errors import UserError
from s2s.heads.base import HeadSettings, Tokens
from s2s.heads.labels import Label, LabelSource
from s2s.heads.modules import Classifier, Rows, Tagger
from s2s.heads.scoring import RANKED, HeadOutput
from s2s.losses.terms import Term
from s2s.model.backbone import Backbone


class Head(NamedTuple):
    """A head of a recipe; ``names`` are its labels, or empty where they are ids of pieces."""

    name: str
    settings: HeadSettings
    names: Sequence[str]
    source: LabelSource


def make_heads(
    settings: Mapping[str, HeadSettings], names: Mapping[str, Sequence[str]], data: DataSettings
) -> list[Head]:
    """Make the heads of a recipe's settings, given their inventories.

    Errors: a UserError for a head without an inventory, as a recipe may be edited after its run began.
    """
    if unknown := [name for name in settings if name not in names]:
        raise UserError(
            f"heads.{unknown[0]}: the run's labels, in run.json, have none for this head; "
            f"take it out of the recipe, or train a run with it"
        )
    tokens = _tokens(data)
    return [Head(name, head, names[name], head.source(name, names[name], tokens)) for name, head in settings.items()]


def _tokens(data: DataSettings) -> Tokens:
    """Return a function that reads an example's tokens: the given ones, or its text split as the recipe says."""
    return lambda example: example.tokens or TOKEN_SPLITS[data.split](example.source)


def labelling_of(heads: Sequence[Head], data: DataSettings) -> Labelling:
    """Return how the data is to be labelled for these heads, and how its sources are to be read."""
    tokens = _tokens(data) if any(head.settings.tags_tokens for head in heads) else None
    return Labelling([head.source for head in heads], tokens)


class Heads(nn.Module):
    """The modules of the heads, over one encoded source."""

    def __init__(self, heads: Sequence[Head], width: int, size: int) -> None:
        super().__init__()
        self.heads = list(heads)
        self.weights = {head.name: head.settings.weight for head in heads}
        self.parts = nn.ModuleList(head.settings.build(width, size, head.names) for head in heads)

    def terms(self, rows: Rows, batch: Batch) -> dict[str, Term]:
        """Return the loss of each head, not yet weighted."""
        triples = zip(self.heads, self.parts, batch.heads, strict=True)
        return {head.name: Term(cast(Any, part).loss(rows, labels), str(part.unit)) for head, part, labels in triples}

    def outputs(self, rows: Rows, batch: Batch) -> list[list[HeadOutput]]:
        """Return the output of each head for each row, computed in the precision of the rows."""
        outputs = []
        for head, part, labels in zip(self.heads, self.parts, batch.heads, strict=True):
            if isinstance(part, Tagger):
                tags = part.predict(rows, labels != IGNORED)
                outputs.append([HeadOutput([head.names[tag] for tag in row]) for row in tags])
            else:
                assert isinstance(part, Classifier)
                outputs.append([_chosen(head, part, scores) for scores in part.scores(rows)])
        return outputs


def _chosen(head: Head, part: Classifier, scores: Tensor) -> HeadOutput:
    """Return the labels whose scores are above 0, best first, and the ranking."""
    # One search serves both: all chosen labels, and the first RANKED even where fewer are chosen.
    count = max(int((scores > 0).sum()), min(RANKED, len(scores)))
    best, index = scores.topk(count)
    names: list[Label] = [head.names[label] if head.names else label for label in index.tolist()]
    chosen = int((best > 0).sum())
    return HeadOutput(names[:chosen], part.kind.probabilities(best[:chosen]).tolist(), names[:RANKED])


def rows_of(model: Backbone, batch: Batch) -> Rows:
    """Encode a batch's sources for the heads."""
    hidden = model.source_hidden(batch.source, batch.source_lengths)
    return Rows(hidden, batch.source_lengths, model.token_table)
