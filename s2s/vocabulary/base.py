"""What every vocabulary does: text to ids and back, and pairs of texts to batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import torch

from s2s.batch import Batch, collate
from s2s.vocabulary.boundaries import begins_in_word


def fold(text: str) -> str:
    """The text with every run of white space, line ends too, as one blank: what all vocabularies read."""
    return " ".join(text.split())


class Reader(Protocol):
    """Ids to texts, whole or as the ids come."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of ids."""

    def settled(self, ids: Sequence[int], /) -> str:
        """Return the beginning of the text that stays as it is, whatever ids follow."""

    def shares(self, ids: Sequence[int], /) -> list[str]:
        """Return what each id adds to the text of all of them; joined they are that text."""


def increments(reader: Reader, ids: Sequence[int]) -> list[str]:
    """Return what is certain of the text with each id more than before; the last has all that is left."""
    told = ["", *(reader.settled(ids[:count]) for count in range(1, len(ids))), reader.decode(ids)]
    return [after[len(before) :] for before, after in pairwise(told)] if ids else []


class Vocabulary(ABC):
    """Text <-> ids, with the special ids of a sequence's layout.

    ``begin`` opens a source ([CLS] or <s>); ``end`` closes sources and targets and opens the decoder's input ([SEP]
    or </s>). ``keep`` lists the rows of the pretrained vocabulary that this one consists of, or is None.
    """

    size: int
    padding: int
    unknown: int
    begin: int
    end: int
    keep: list[int] | None = None

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special ids."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ids are left out."""

    @property
    def never_written(self) -> list[int]:
        """The ids that no search writes: the unknown one, unless the tokenizer has the end or the padding in its place.

        It has no text, so a model that has learnt it from its data would leave holes in what it writes.
        """
        return [] if self.unknown in (self.end, self.padding) else [self.unknown]

    def settled(self, ids: Sequence[int]) -> str:
        """Return the beginning of the text of ids that stays as it is, whatever ids follow."""
        return self.decode(ids).rstrip("\ufffd")  # the rest of a character's bytes may yet come

    def shares(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text of all of them; joined they are that text."""
        return increments(self, ids)

    def spell(self) -> list[bytes]:
        """What each id adds to a text, as ``s2s.vocabulary.spelling`` says; nothing for special ids."""
        raise NotImplementedError

    def continuing(self, in_word: bool) -> list[bool]:
        """Return for each id whether it goes on with a word; ``in_word`` says whether the text so far ends in one."""
        return [in_word and begins_in_word(spelled) for spelled in self.spell()]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that ``load`` needs into an existing folder."""

    def digest(self) -> str:
        """Hexadecimal digits that differ where any text would be encoded otherwise."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder))
            return sha256(b"".join(file.read_bytes() for file in sorted(Path(folder).iterdir()))).hexdigest()

    def piece(self, id: int) -> str:
        """How a single id is written for people."""
        return self.decode([id])

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without special ids."""
        return self.encode_all([text])[0]

    def encode_tokens(self, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        """Ids of each token of each row, as if it stood alone: at least one, the unknown one where there is none.

        A mark of a word's begin that is a piece of its own says nothing of a token and is left out.
        """
        distinct = sorted({token for row in rows for token in row})
        known = {token: self._token(ids) for token, ids in zip(distinct, self.encode_all(distinct), strict=True)}
        return [[known[token] for token in row] for row in rows]

    def _token(self, ids: list[int]) -> list[int]:
        has_lone_mark = len(ids) > 1 and not self.decode(ids[:1]).strip()
        return (ids[1:] if has_lone_mark else ids) or [self.unknown]

    def source_ids(self, text_ids: Sequence[int], limit: int | None = None) -> list[int]:
        """The source's row: begin, the text cut so that the row is at most ``limit`` long, end."""
        return [self.begin, *(text_ids if limit is None else text_ids[: limit - 2]), self.end]

    def batch(self, pairs: Iterable[tuple[str, str]], device: torch.device | str | None = None) -> Batch:
        """Make a batch of (source, target) texts, whole: nothing is cut. It lies on ``device``, by default the CPU."""
        sources, targets = zip(*pairs, strict=True)
        rows = [self.source_ids(ids) for ids in self.encode_all(sources)]
        batch = collate(list(zip(rows, self.encode_all(targets), strict=True)), self.padding, self.end)
        return batch if device is None else batch.to(torch.device(device))
