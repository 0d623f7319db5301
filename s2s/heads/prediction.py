"""Labels for new sources."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy
import torch

from s2s.data.rows import Example
from s2s.data.settings import DataSettings
from s2s.data.sources import Source, encode_sources
from s2s.heads.labels import Label
from s2s.heads.modules import Tagger
from s2s.heads.run_heads import Heads, labelling_of, rows_of
from s2s.heads.scoring import HeadOutput
from s2s.model.backbone import Backbone
from s2s.vocabulary import Vocabulary


class Prediction(NamedTuple):
    """The output of each head for a source, and the tokens that its tags belong to; None for tokens cut off."""

    tokens: list[str]
    heads: dict[str, HeadOutput]


Given = str | Sequence[str]
"""A source: a text, or its tokens."""


def predict(
    model: Backbone,
    heads: Heads,
    vocabulary: Vocabulary,
    data: DataSettings,
    sources: Sequence[Given],
    rows: int,
    on_progress: Callable[[int], object],
) -> tuple[list[Prediction], list[str]]:
    """Return the heads' predictions for sources, in order, ``rows`` at a time, and lines on what was cut."""
    read = labelling_of(heads.heads, data).tokens
    examples = [
        Example(source, "") if isinstance(source, str) else Example(" ".join(source), "", tuple(source))
        for source in sources
    ]
    given = [read(example) if read else example.source for example in examples]
    encoded, report = encode_sources(given, vocabulary, data.max_source)
    outputs: list[list[HeadOutput]] = [[] for _ in sources]
    # Sources of similar length share a batch, so that little of it is padding.
    by_length = numpy.argsort([len(source.ids) for source in encoded], kind="stable").tolist()
    for start in range(0, len(by_length), rows):
        indices = by_length[start : start + rows]
        batch_outputs = _predict_batch(model, heads, vocabulary, [encoded[index] for index in indices])
        for index, row in zip(indices, batch_outputs, strict=True):
            outputs[index] = row
        on_progress(len(indices))
    return [_prediction(heads, vocabulary, *row) for row in zip(given, encoded, outputs, strict=True)], report


@torch.no_grad()
def _predict_batch(
    model: Backbone, heads: Heads, vocabulary: Vocabulary, sources: Sequence[Source]
) -> list[list[HeadOutput]]:
    """Return the outputs of the heads for each source of a batch."""
    labels = [[head.source.blank(source) for source in sources] for head in heads.heads]
    pairs = [(source.ids, None) for source in sources]
    batch = vocabulary.collate(pairs, heads=labels).to(model.device)
    return [list(row) for row in zip(*heads.outputs(rows_of(model, batch), batch), strict=True)]


def _prediction(
    heads: Heads, vocabulary: Vocabulary, given: Given, source: Source, outputs: Sequence[HeadOutput]
) -> Prediction:
    pieces = (
        [vocabulary.decode([id]) for id in vocabulary.text_of(source.ids)] if isinstance(given, str) else list(given)
    )
    by_name = {}
    for head, part, output in zip(heads.heads, heads.parts, outputs, strict=True):
        labels = output.labels
        if isinstance(part, Tagger):
            cut_off: list[Label | None] = [None] * (len(pieces) - len(labels))
            labels = [*labels, *cut_off]
        elif not head.names:  # the labels are ids of pieces
            labels = [vocabulary.decode([int(label or 0)]) for label in labels]
        by_name[head.name] = output._replace(labels=labels)
    return Prediction(pieces, by_name)
