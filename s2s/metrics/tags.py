"""Scores of tags and of sets of labels, in 0..100.

Those of a whole set are computed from sums of each example, [N, F], by ``f1`` or ``share`` of their total, so that
significance tests can resample examples. Macro F1 would need sums of each label, and has none.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from s2s.metrics.bootstrap import Numbers

Label = Hashable


class Span(NamedTuple):
    """A span of tokens from ``start`` up to, but not including, ``end``, and its type."""

    kind: str
    start: int
    end: int


def spans(tags: Sequence[str | None]) -> list[Span]:
    """Return the spans of BIO, IOB1, BMES, BIOES or BILOU tags, by the lenient rules of seqeval and conlleval.

    Every tag but O belongs to a span. I, M, E and L continue the span before them if it has their type and no E, L, S
    or U has closed it; otherwise they begin one, as B, S and U always do. seqeval itself does not know M, and knows L
    and U only in its strict mode.
    """
    marked: list[Span] = []
    before, kind_before = "O", ""
    for column, name in enumerate(tags):
        tag, _, kind = (name or "O").partition("-")
        if tag in ("I", "M", "E", "L") and before in ("B", "I", "M") and kind == kind_before:
            marked[-1] = marked[-1]._replace(end=column + 1)
        elif tag != "O":
            marked.append(Span(kind, column, column + 1))
        before, kind_before = tag, kind
    return marked


def f1(sums: Numbers) -> Numbers:
    """Return the harmonic mean of precision and recall from sums [..., 3]: right, predicted and gold items.

    It is 0 where nothing is right.
    """
    scores: Numbers = 200 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)
    return scores


def share(sums: Numbers) -> Numbers:
    """Return the share of right items from sums [..., 2]: right items and all; 0 where there are none."""
    shares: Numbers = 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)
    return shares


def label_sums(predicted: Sequence[Iterable[Label]], gold: Sequence[Iterable[Label]]) -> Numbers:
    """Return the numbers of right, of predicted and of gold labels of each example, [N, 3]."""
    pairs = [(set(labels), set(golds)) for labels, golds in zip(predicted, gold, strict=True)]
    return _rows([(len(labels & golds), len(labels), len(golds)) for labels, golds in pairs], 3)


def macro_f1(predicted: Sequence[Iterable[Label]], gold: Sequence[Iterable[Label]]) -> float:
    """Return the mean F1 over the labels that are predicted or gold anywhere."""
    right, guesses, golds = Counter[Label](), Counter[Label](), Counter[Label]()
    for labels, gold_labels in zip(predicted, gold, strict=True):
        right.update(set(labels) & set(gold_labels))
        guesses.update(set(labels))
        golds.update(set(gold_labels))
    every = guesses.keys() | golds.keys()
    sums = _rows([(right[label], guesses[label], golds[label]) for label in every], 3)
    return float(f1(sums).sum()) / max(1, len(every))


def precision_sums(k: int, rankings: Sequence[Sequence[Label]], gold: Sequence[Iterable[Label]]) -> Numbers:
    """Return the number of gold labels among the first k of each ranking, and k, [N, 2]."""
    return _rows([(len(set(row[:k]) & set(labels)), k) for row, labels in zip(rankings, gold, strict=True)], 2)


def token_sums(predicted: Sequence[Sequence[Label]], gold: Sequence[Sequence[Label]]) -> Numbers:
    """Return the numbers of right tags and of tokens of each row, [N, 2].

    Raises ``ValueError`` for rows of unequal length.
    """
    _check_pairs(predicted, gold)
    pairs = [list(zip(tags, golds, strict=True)) for tags, golds in zip(predicted, gold, strict=True)]
    return _rows([(sum(tag == gold_tag for tag, gold_tag in row), len(row)) for row in pairs], 2)


def _check_pairs(predicted: Sequence[Sequence[object]], gold: Sequence[Sequence[object]]) -> None:
    # Spans would not notice: a row that is cut short only lacks its last spans, and scores well.
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} rows of tags, but {len(gold)} are gold")
    for row, (tags, golds) in enumerate(zip(predicted, gold, strict=True)):
        if len(tags) != len(golds):
            raise ValueError(f"row {row}: {len(tags)} tags, but {len(golds)} are gold")


def span_sums(predicted: Sequence[Sequence[str | None]], gold: Sequence[Sequence[str | None]]) -> Numbers:
    """Return the numbers of right, of predicted and of gold spans of each row, [N, 3].

    A span is right where its type, start and end are. Raises ``ValueError`` for rows of unequal length.
    """
    _check_pairs(predicted, gold)
    return label_sums([spans(tags) for tags in predicted], [spans(tags) for tags in gold])


def tag_macro_f1(predicted: Sequence[Sequence[Label]], gold: Sequence[Sequence[Label]]) -> float:
    """Return the mean over tags of the F1 of the tokens that have them; errors as in ``token_sums``."""
    _check_pairs(predicted, gold)
    tokens, golds = ([{tag} for tags in rows for tag in tags] for rows in (predicted, gold))
    return macro_f1(tokens, golds)


def _rows(sums: Sequence[tuple[int, ...]], columns: int) -> Numbers:
    return np.array(sums, dtype=np.float64).reshape(-1, columns)
