"""Scores of tags and of sets of labels, in 0..100."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

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


def _f1(right: int, predicted: int, gold: int) -> float:
    """Return the harmonic mean of precision and recall in percent; 0 where nothing is right."""
    return 200 * right / (predicted + gold) if right else 0.0


def micro_f1(predicted: Sequence[Iterable[Label]], gold: Sequence[Iterable[Label]]) -> float:
    """Return the F1 of all labels of all examples together."""
    pairs = [(set(labels), set(golds)) for labels, golds in zip(predicted, gold, strict=True)]
    right = sum(len(labels & golds) for labels, golds in pairs)
    return _f1(right, sum(len(labels) for labels, _ in pairs), sum(len(golds) for _, golds in pairs))


def macro_f1(predicted: Sequence[Iterable[Label]], gold: Sequence[Iterable[Label]]) -> float:
    """Return the mean F1 over the labels that are predicted or gold anywhere."""
    right, guesses, golds = Counter[Label](), Counter[Label](), Counter[Label]()
    for labels, gold_labels in zip(predicted, gold, strict=True):
        right.update(set(labels) & set(gold_labels))
        guesses.update(set(labels))
        golds.update(set(gold_labels))
    every = guesses.keys() | golds.keys()
    return sum(_f1(right[label], guesses[label], golds[label]) for label in every) / max(1, len(every))


def precision_at(k: int, rankings: Sequence[Sequence[Label]], gold: Sequence[Iterable[Label]]) -> float:
    """Return the mean share of gold labels among the first k of a ranking."""
    shares = [len(set(ranking[:k]) & set(labels)) / k for ranking, labels in zip(rankings, gold, strict=True)]
    return 100 * sum(shares) / max(1, len(shares))


def accuracy(predicted: Sequence[Sequence[Label]], gold: Sequence[Sequence[Label]]) -> float:
    """Return the share of tokens whose tag is right. Raises ``ValueError`` for rows of unequal length."""
    _check_pairs(predicted, gold)
    pairs = [pair for tags, golds in zip(predicted, gold, strict=True) for pair in zip(tags, golds, strict=True)]
    return 100 * sum(tag == gold_tag for tag, gold_tag in pairs) / max(1, len(pairs))


def _check_pairs(predicted: Sequence[Sequence[object]], gold: Sequence[Sequence[object]]) -> None:
    # Spans would not notice: a row that is cut short only lacks its last spans, and scores well.
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} rows of tags, but {len(gold)} are gold")
    for row, (tags, golds) in enumerate(zip(predicted, gold, strict=True)):
        if len(tags) != len(golds):
            raise ValueError(f"row {row}: {len(tags)} tags, but {len(golds)} are gold")


def entity_f1(predicted: Sequence[Sequence[str | None]], gold: Sequence[Sequence[str | None]]) -> float:
    """Return the F1 of spans; type, start and end must be right. Raises ``ValueError`` for rows of unequal length."""
    _check_pairs(predicted, gold)
    return micro_f1([spans(tags) for tags in predicted], [spans(tags) for tags in gold])


def tag_macro_f1(predicted: Sequence[Sequence[Label]], gold: Sequence[Sequence[Label]]) -> float:
    """Return the mean over tags of the F1 of the tokens that have them; errors as in ``accuracy``."""
    _check_pairs(predicted, gold)
    tokens, golds = ([{tag} for tags in rows for tag in tags] for rows in (predicted, gold))
    return macro_f1(tokens, golds)
