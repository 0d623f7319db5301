"""The base class of vocabularies: text to ids and back, and pairs of texts to batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from s2s.batch import Batch, collate
from s2s.vocabulary.spelling import begins_in_word


def fold(text: str) -> str:
    """Return the text with every run of white space, line ends too, as one blank: all vocabularies read it so."""
    return " ".join(text.split())


class Reader(Protocol):
    """Turns ids into texts, whole or while the ids arrive."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of ids."""

    def settled(self, ids: Sequence[int], /) -> str:
        """Return the beginning of the text that no later id can change."""

    def shares(self, ids: Sequence[int], /) -> list[str]:
        """Return the part of the text that each id adds; joined they are the text of all ids."""


def increments(reader: Reader, ids: Sequence[int]) -> list[str]:
    """Return the text that becomes certain with each id; the last id gets all that is left."""
    texts = ["", *(reader.settled(ids[:count]) for count in range(1, len(ids))), reader.decode(ids)]
    return [after[len(before) :] for before, after in pairwise(texts)] if ids else []


class Vocabulary(ABC):
    """Turns text into ids and back, and knows the special ids of the sequence layout.

    ``begin`` opens a source ([CLS] or <s>); ``end`` closes sources and targets and opens the decoder's input ([SEP]
    or </s>). Where a model of ``transformers`` has another layout, ``opening`` and ``closing`` are the ids around a
    source, ``start`` opens the decoder's input, and ``prefix`` are ids that its decoder reads before that. ``keep``
    lists the rows of the pretrained embedding that this vocabulary uses; None: all, in order.
    """

    size: int
    padding: int
    unknown: int
    begin: int
    end: int
    keep: list[int] | None = None
    prefix: Sequence[int] = ()
    roles: tuple[str, str, str, str] = ("0", "0", "1", "1")
    """Names of a column around a source, of its text, of the symbol that opens a target, and of its text: segments."""

    @property
    def opening(self) -> Sequence[int]:
        """The ids before the text of a source."""
        return (self.begin,)

    @property
    def closing(self) -> Sequence[int]:
        """The ids after the text of a source."""
        return (self.end,)

    @property
    def start(self) -> int:
        """The id that opens the decoder's input, before the first token of a target."""
        return self.end

    @property
    def framing(self) -> int:
        """The number of ids of a source that are not of its text."""
        return len(self.opening) + len(self.closing)

    def text_of(self, source: Sequence[int]) -> Sequence[int]:
        """Return the ids of a source's text."""
        return source[len(self.opening) : len(source) - len(self.closing)]

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special ids; in a layout with a template, those of a target."""

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text within a source, without those around it."""
        return self.encode_all(texts)

    def layout_report(self, pairs: Sequence[tuple[str, str]]) -> list[str]:  # noqa: ARG002
        """Return lines on how the layout reads a few sources and targets."""
        return []

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special ids are left out."""

    @property
    def never_written(self) -> list[int]:
        """The ids that no search writes: the unknown one, unless it is the same as the end or the padding.

        It has no text, so a model that has learnt it from its data would leave gaps in its texts.
        """
        return [] if self.unknown in (self.end, self.padding) else [self.unknown]

    @property
    def marks(self) -> frozenset[int]:
        """The special ids besides padding, unknown, begin and end: a tokenizer's marks of chats, sentinels, masks."""
        return frozenset()

    def plain_ids(self) -> list[int]:
        """Return the ids that noise may put into a text, sorted: no special one but the unknown, which texts have."""
        special = {self.padding, self.begin, self.end, *self.marks}
        return [id for id in range(self.size) if id not in special]

    def settled(self, ids: Sequence[int]) -> str:
        """Return the beginning of the text of ids that no later id can change."""
        return self.decode(ids).rstrip("\ufffd")  # U+FFFD: the other bytes of the last character may still follow

    def shares(self, ids: Sequence[int]) -> list[str]:
        """Return the part of the text that each id adds; joined they are the text of all ids."""
        return increments(self, ids)

    def spell(self) -> list[bytes]:
        """Return the bytes that each id adds to a text, see ``s2s.vocabulary.spelling``; none for special ids."""
        raise NotImplementedError  # sentencepiece and transformers each know their own pieces

    def continuing(self, in_word: bool) -> list[bool]:
        """Return for each id whether it continues a word; ``in_word`` says whether the text before ends in one."""
        return [in_word and begins_in_word(spelled) for spelled in self.spell()]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that ``load`` reads into an existing folder."""

    def digest(self) -> str:
        """Return hexadecimal digits that differ between vocabularies that encode any text differently."""
        # By the saved files, since these are all that encoding depends on.
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            return sha256(b"".join(file.read_bytes() for file in sorted(Path(folder).iterdir()))).hexdigest()

    def piece(self, id: int) -> str:
        """Return a single id in a form for people."""
        return self.decode([id])

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, without special ids."""
        return self.encode_all([text])[0]

    def encode_tokens(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Return the ids of each token of each row, encoded by itself; the unknown id for a token without ids.

        Some tokenizers encode the begin of a word as a piece of its own (a metaspace), which is left out.
        """
        distinct = sorted({token for row in rows for token in row})
        known = {token: self._token(ids) for token, ids in zip(distinct, self.encode_all(distinct), strict=True)}
        return [[known[token] for token in row] for row in rows]

    def _token(self, ids: list[int]) -> list[int]:
        has_lone_mark = len(ids) > 1 and not self.decode(ids[:1]).strip()
        return (ids[1:] if has_lone_mark else ids) or [self.unknown]

    def source_ids(self, text_ids: Sequence[int], limit: int | None = None) -> list[int]:
        """Return the ids of a source: opening, the text cut so that the row has at most ``limit`` ids, closing."""
        room = len(text_ids) if limit is None else max(0, limit - self.framing)
        # A prompt without any id has no column that a target could follow.
        return [*self.opening, *text_ids[:room], *self.closing] or [self.end]

    def collate(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int] | None]],
        seeds: Sequence[int] | None = None,
        heads: Sequence[Sequence[Sequence[int]]] = (),
    ) -> Batch:
        """Make a batch of (source ids with those around them, target ids without end), see ``s2s.batch.collate``."""
        return collate(pairs, self.padding, self.end, seeds, heads, self.start)

    def batch(self, pairs: Iterable[tuple[str, str]], device: torch.device | str | None = None) -> Batch:
        """Make a batch of whole (source, target) texts on ``device``, by default the CPU."""
        sources, targets = zip(*pairs, strict=True)
        rows = [self.source_ids(ids) for ids in self.encode_sources(sources)]
        batch = self.collate(list(zip(rows, self.encode_all(targets), strict=True)))
        return batch if device is None else batch.to(torch.device(device))


def same_pieces(first: Vocabulary, second: Vocabulary) -> bool:
    """Return whether each id is the same piece in both, so that their probabilities can be compared id by id."""
    # Identity first: to spell every piece of a large vocabulary takes time.
    return first is second or _pieces(first) == _pieces(second)


def _pieces(vocabulary: Vocabulary) -> tuple[list[bytes], int, int, int]:
    return vocabulary.spell(), vocabulary.padding, vocabulary.begin, vocabulary.end
