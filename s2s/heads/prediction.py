"""Labels for new sources."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy
import torch

from s2s.batch import collate
from s2s.data.rows import Example
from s2s.data.settings import DataSettings
from s2s.data.sources import Source, encode_sources
from s2s.heads.labels import Label
from s2s.heads.modules import Tagger
from s2s.heads.run_heads import Heads, labelling_of, rows_of, to_label
from s2s.heads.scoring import HeadOutput
from s2s.model import PrefixTransformer
from s2s.vocabulary import Vocabulary


class Prediction(NamedTuple):
    """What each head says of a source, and the tokens that tags are of; a tag that a cut has lost is None."""

    tokens: list[str]
    heads: dict[str, HeadOutput]


Given = str | Sequence[str]
"""A source: a text, or its tokens."""


def predict(
    model: PrefixTransformer,
    heads: Heads,
    vocabulary: Vocabulary,
    data: DataSettings,
    sources: Sequence[Given],
    rows: int,
    on_progress: Callable[[int], object],
) -> tuple[list[Prediction], list[str]]:
    """What heads say of sources, in order, so many rows at a time, and lines on what was cut."""
    read = labelling_of(heads.heads, data).tokens
    examples = [_example(source) for source in sources]
    given = [read(example) if read else example.source for example in examples]
    encoded, report = encode_sources(given, vocabulary, data.max_source)
    found: list[list[HeadOutput]] = [[] for _ in sources]
    for indices in _batches(encoded, rows):
        said = _say(model, heads, vocabulary, [encoded[index] for index in indices])
        for index, each in zip(indices, said, strict=True):
            found[index] = each
        on_progress(len(indices))
    return [_prediction(heads, vocabulary, *row) for row in zip(given, encoded, found, strict=True)], report


def _example(source: Given) -> Example:
    return Example(source, "") if isinstance(source, str) else Example(" ".join(source), "", tuple(source))


def _batches(encoded: Sequence[Source], rows: int) -> Iterator[list[int]]:
    """Indices of sources of like length."""
    order = numpy.argsort([len(source.ids) for source in encoded], kind="stable").tolist()
    yield from (order[start : start + rows] for start in range(0, len(order), rows))


@torch.no_grad()
def _say(
    model: PrefixTransformer, heads: Heads, vocabulary: Vocabulary, sources: Sequence[Source]
) -> list[list[HeadOutput]]:
    """What the heads say of each source of a batch."""
    labels = list(zip(*(to_label(heads.heads, source) for source in sources), strict=True))
    pairs = [(source.ids, None) for source in sources]
    batch = collate(pairs, vocabulary.padding, vocabulary.end, heads=labels).to(model.output_bias.device)
    said = heads.say(rows_of(model, batch), batch)
    return [list(row) for row in zip(*said, strict=True)]


def _prediction(
    heads: Heads, vocabulary: Vocabulary, given: Given, source: Source, said: Sequence[HeadOutput]
) -> Prediction:
    pieces = [vocabulary.decode([id]) for id in source.ids[1:-1]] if isinstance(given, str) else list(given)
    found = {}
    for head, part, each in zip(heads.heads, heads.parts, said, strict=True):
        if isinstance(part, Tagger):
            lost: list[Label | None] = [None] * (len(pieces) - len(each.labels))
            each = each._replace(labels=[*each.labels, *lost])
        elif not head.names:  # the labels are ids of pieces
            each = each._replace(labels=[vocabulary.decode([int(label or 0)]) for label in each.labels])
        found[head.name] = each
    return Prediction(pieces, found)
