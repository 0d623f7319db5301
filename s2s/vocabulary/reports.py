"""Reports on texts that a vocabulary loses: unknown pieces, and texts that come back changed."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from s2s.vocabulary.base import Vocabulary, fold

SHOWN = 3
"""Examples in a line."""
TESTED = 1000
"""Texts that are encoded and decoded for the test."""
AROUND = 2
"""Words that an example shows before and after the lossy one."""
WIDTH = 30
"""Characters that an example shows of a word or a text."""


class Unknowns(NamedTuple):
    """The number of unknown pieces in texts, the number of texts with any, and examples of texts and their decoding."""

    pieces: int = 0
    texts: int = 0
    examples: tuple[str, ...] = ()

    def plus(self, other: "Unknowns") -> "Unknowns":
        """Return the sum of both."""
        examples = tuple(dict.fromkeys((*self.examples, *other.examples)))[:SHOWN]
        return Unknowns(self.pieces + other.pieces, self.texts + other.texts, examples)

    def report(self, kind: str, count: int) -> list[str]:
        """Return a line on the unknown pieces of ``count`` sources or targets, if there are any."""
        if not self.pieces:
            return []
        pieces = f"{self.pieces} piece{'s' * (self.pieces > 1)} of {self.texts} of {count} {kind}"
        return [f"{pieces} unknown to the vocabulary: {', '.join(self.examples)}"]


def unknowns(vocabulary: Vocabulary, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> Unknowns:
    """Count the unknown pieces in the ids of texts."""
    unknown = vocabulary.never_written
    if not unknown:
        return Unknowns()
    counts = [list(row).count(unknown[0]) for row in rows]
    lossy = [text for text, count in zip(texts, counts, strict=True) if count]
    shown = list(dict.fromkeys(lossy))[:SHOWN]
    return Unknowns(sum(counts), len(lossy), tuple(_example(vocabulary, text, unknown[0]) for text in shown))


def _example(vocabulary: Vocabulary, text: str, unknown: int) -> str:
    """Return the words around the first unknown one, and their decoding."""
    words = fold(text).split(" ")
    at = next((at for at, ids in enumerate(vocabulary.encode_all(words)) if unknown in ids), 0)
    part = words[max(0, at - AROUND) : at + AROUND + 1]
    if len(words[at]) > WIDTH:  # text without blanks, or a very long name: show the characters around the unknown one
        lost = next((index for index, ids in enumerate(vocabulary.encode_all(list(words[at]))) if unknown in ids), 0)
        part = [words[at][max(0, lost - WIDTH // 2) : lost + WIDTH // 2]]
    shown = " ".join(part)
    return f"{shown!r} -> {_read(vocabulary, vocabulary.encode(shown), unknown)!r}"


def _read(vocabulary: Vocabulary, ids: Sequence[int], unknown: int) -> str:
    """Return the text of ids, with the name of the unknown piece where it occurs."""
    parts: list[list[int]] = [[]]
    for id in ids:
        parts.extend([[id], []]) if id == unknown else parts[-1].append(id)
    texts = [vocabulary.piece(unknown) if part == [unknown] else vocabulary.decode(part) for part in parts]
    return " ".join(text for text in texts if text)


def changed_texts(vocabulary: Vocabulary, targets: Sequence[str]) -> list[str]:
    """Return a line, with an example, for each way in which encoding and decoding changes targets."""
    changes: dict[str, list[str]] = {}
    for text, ids in zip(targets, vocabulary.encode_all(targets), strict=True):
        back = vocabulary.decode(ids)
        # One text counts once, for the mildest change that explains it.
        if text != back:
            kind = next(kind for kind, same in CHANGES.items() if same(text) == same(back))
            changes.setdefault(kind, []).append(_difference(text, back))
    return [
        f"targets: {len(examples)} of {len(targets)} tested come back with {kind}, such as {examples[0]}"
        for kind, examples in changes.items()
    ]


def _difference(text: str, back: str) -> str:
    """Return the two texts around the first character that differs."""
    pairs = zip(text, back, strict=False)
    at = next((at for at, (before, after) in enumerate(pairs) if before != after), min(len(text), len(back)))
    start = max(0, at - WIDTH // 2)
    return f"{text[start : start + WIDTH]!r} -> {back[start : start + WIDTH]!r}"


def _without_marks(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _compatible(text: str) -> str:
    return fold(unicodedata.normalize("NFKC", text))


CHANGES: dict[str, Callable[[str], str]] = {
    "line ends and runs of blanks as one blank": fold,
    "other forms of characters (Unicode's NFKC)": _compatible,
    "lower case": lambda text: _compatible(text).casefold(),
    "letters without their accents": lambda text: fold(_without_marks(text)),
    "other blanks": lambda text: "".join(_without_marks(text).split()),
    "characters lost or replaced": lambda _: "",
}
"""Kinds of changes, each with a function that is equal for both texts; the first kind that fits counts."""
