"""Scores of tags and of sets of labels, in 0..100."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

Label = Hashable


class Span(NamedTuple):
    """Tokens ``start`` to ``end``, the last one not included, and what they are."""

    kind: str
    start: int
    end: int


def spans(tags: Sequence[str | None]) -> list[Span]:
    """Return the spans that tags of BIO, IOB1, BMES, BIOES or BILOU mark, by seqeval's and conlleval's lenient rules.

    Every tag but O belongs to a span. I, M, E and L go on with the span before them if that is of their type and none
    of E, L, S and U has closed it; otherwise they begin one, as B, S and U always do. seqeval itself knows no M, and L
    and U only in its strict mode.
    """
    found: list[Span] = []
    before, kind_before = "O", ""
    for column, name in enumerate(tags):
        tag, _, kind = (name or "O").partition("-")
        if tag in ("I", "M", "E", "L") and before in ("B", "I", "M") and kind == kind_before:
            found[-1] = found[-1]._replace(end=column + 1)
        elif tag != "O":
            found.append(Span(kind, column, column + 1))
        before, kind_before = tag, kind
    return found


class Hits(NamedTuple):
    """How many were right, how many were said and how many there are."""

    right: int
    said: int
    real: int

    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 where nothing is right."""
        return 200 * self.right / (self.said + self.real) if self.right else 0.0


def _hits(pairs: Iterable[tuple[set[Label], set[Label]]]) -> Hits:
    counts = [(len(said & real), len(said), len(real)) for said, real in pairs]
    return Hits(*(sum(column) for column in zip(*counts, strict=True))) if counts else Hits(0, 0, 0)


def micro_f1(said: Sequence[Iterable[Label]], real: Sequence[Iterable[Label]]) -> float:
    """The F1 of all labels of all examples together."""
    return _hits((set(ours), set(theirs)) for ours, theirs in zip(said, real, strict=True)).f1()


def macro_f1(said: Sequence[Iterable[Label]], real: Sequence[Iterable[Label]]) -> float:
    """The mean over labels of their F1, over those that occur in what was said or in what is real."""
    right, ours, theirs = Counter[Label](), Counter[Label](), Counter[Label]()
    for some, others in zip(said, real, strict=True):
        right.update(set(some) & set(others))
        ours.update(set(some))
        theirs.update(set(others))
    labels = ours.keys() | theirs.keys()
    return sum(Hits(right[label], ours[label], theirs[label]).f1() for label in labels) / max(1, len(labels))


def precision_at(k: int, rankings: Sequence[Sequence[Label]], real: Sequence[Iterable[Label]]) -> float:
    """The mean share of the first k labels of a ranking that are real."""
    shares = [len(set(ranking[:k]) & set(labels)) / k for ranking, labels in zip(rankings, real, strict=True)]
    return 100 * sum(shares) / max(1, len(shares))


def accuracy(said: Sequence[Sequence[Label]], real: Sequence[Sequence[Label]]) -> float:
    """Return the share of tokens whose tag is right. Raises ``ValueError`` for rows of unequal length."""
    _check_pairs(said, real)
    pairs = [pair for ours, theirs in zip(said, real, strict=True) for pair in zip(ours, theirs, strict=True)]
    return 100 * sum(ours == theirs for ours, theirs in pairs) / max(1, len(pairs))


def _check_pairs(said: Sequence[Sequence[object]], real: Sequence[Sequence[object]]) -> None:
    """Refuse rows that do not pair, or whose tokens do not: a row cut short would only lack spans and pass as good."""
    if len(said) != len(real):
        raise ValueError(f"{len(said)} rows of tags, but {len(real)} are real")
    for row, (ours, theirs) in enumerate(zip(said, real, strict=True)):
        if len(ours) != len(theirs):
            raise ValueError(f"row {row}: {len(ours)} tags, but {len(theirs)} are real")


def entity_f1(said: Sequence[Sequence[str | None]], real: Sequence[Sequence[str | None]]) -> float:
    """Return the F1 of spans, right if type, start and end are. Raises ``ValueError`` for rows of unequal length."""
    _check_pairs(said, real)
    return micro_f1([spans(tags) for tags in said], [spans(tags) for tags in real])


def tag_macro_f1(said: Sequence[Sequence[Label]], real: Sequence[Sequence[Label]]) -> float:
    """Return the mean over tags of the F1 of the tokens that have them; errors as in ``accuracy``."""
    _check_pairs(said, real)
    ours, theirs = ([{tag} for tags in rows for tag in tags] for rows in (said, real))
    return macro_f1(ours, theirs)
