"""Sources as ids, encoded from a text or from tokens whose boundaries are kept."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from s2s.data.rows import Example
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import Unknowns, unknowns


class Source(NamedTuple):
    """A source as ids with begin and end; ``starts`` has the column of the first piece of each token that fits.

    ``starts`` is empty for a source given as text.
    """

    ids: list[int]
    starts: list[int]
    opening: int = 1  # ids before those of the text
    closing: int = 1  # ids after them


Labeller = Callable[[Example, Source, list[int]], list[int]]
"""Gives one head's labels for an example, its source and its target ids; an empty list if it has no label."""


class Labelling(NamedTuple):
    """Functions that give the heads' labels, and one that gives a source's tokens if heads need them."""

    heads: Sequence[Labeller] = ()
    tokens: Callable[[Example], Sequence[str]] | None = None


PLAIN = Labelling()


class Cuts(NamedTuple):
    """Losses of encoding: sources and targets cut, tokens to be tagged and those of them kept, unknown pieces."""

    sources: int = 0
    targets: int = 0
    tokens: int = 0
    kept: int = 0
    unknown_sources: Unknowns = Unknowns()
    unknown_targets: Unknowns = Unknowns()

    def plus(self, other: "Cuts") -> "Cuts":
        """Return the sum of two losses."""
        return Cuts(
            self.sources + other.sources,
            self.targets + other.targets,
            self.tokens + other.tokens,
            self.kept + other.kept,
            self.unknown_sources.plus(other.unknown_sources),
            self.unknown_targets.plus(other.unknown_targets),
        )

    def report(self, examples: int, max_source: int, max_target: int | None = None) -> list[str]:
        """Return a line for each kind of loss that occurred."""
        lines = {
            f"{self.sources} of {examples} sources cut to {max_source} tokens": self.sources,
            f"{self.tokens - self.kept} of {self.tokens} tokens to be tagged lost by that": self.tokens - self.kept,
            f"{self.targets} of {examples} targets cut to {max_target} tokens": self.targets,
        }
        unknown = [
            *self.unknown_sources.report("sources", examples),
            *self.unknown_targets.report("targets", examples),
        ]
        return [*(line for line, count in lines.items() if count), *unknown]


def encode_sources(
    sources: Sequence[str | Sequence[str]], vocabulary: Vocabulary, limit: int
) -> tuple[list[Source], list[str]]:
    """Return sources of at most ``limit`` ids, and report lines on cuts, lost tokens and unknown pieces."""
    encoded, cuts = encode_rows(sources, vocabulary, limit)
    return encoded, cuts.report(len(sources), limit)


def encode_rows(
    sources: Sequence[str | Sequence[str]], vocabulary: Vocabulary, limit: int
) -> tuple[list[Source], Cuts]:
    """Return sources of at most ``limit`` ids, and the losses."""
    whole = list(_whole(sources, vocabulary))
    opening, closing = len(vocabulary.opening), len(vocabulary.closing)
    encoded = [
        Source(vocabulary.source_ids(ids, limit), [at for at in starts if at < limit - closing], opening, closing)
        for ids, starts in whole
    ]
    tokens, kept = sum(len(starts) for _, starts in whole), sum(len(source.starts) for source in encoded)
    texts = [source if isinstance(source, str) else " ".join(source) for source in sources]
    unknown = unknowns(vocabulary, texts, [ids for ids, _ in whole])
    return encoded, Cuts(sum(len(ids) > limit - vocabulary.framing for ids, _ in whole), 0, tokens, kept, unknown)


def _whole(sources: Sequence[str | Sequence[str]], vocabulary: Vocabulary) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the ids of each source without begin and end, and the columns of its tokens after the begin."""
    # One call for all texts and one for all tokens: tokenizers are fast only on batches.
    texts = [source for source in sources if isinstance(source, str)]
    of_texts = iter(vocabulary.encode_sources(texts) if texts else [])
    of_tokens = iter(vocabulary.encode_tokens([source for source in sources if not isinstance(source, str)]))
    for source in sources:
        if isinstance(source, str):
            yield next(of_texts), []
        else:
            pieces = next(of_tokens)
            lengths = [len(vocabulary.opening), *map(len, pieces)]
            yield [id for ids in pieces for id in ids], list(accumulate(lengths[:-1])) if pieces else []


def blanks(text: str) -> list[str]:
    """Return the words of a text between blanks."""
    return text.split()


def characters(text: str) -> list[str]:
    """Return the characters of a text other than white space."""
    return [character for word in text.split() for character in word]


TOKEN_SPLITS: dict[str, Callable[[str], list[str]]] = {"blanks": blanks, "characters": characters}
"""The values of ``data.split``."""
