"""Sentencepiece vocabularies, trained on the train split."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from s2s.errors import UserError
from s2s.vocabulary.base import Vocabulary, fold
from s2s.vocabulary.spelling import by_metaspace

UNKNOWN = 1
LONGEST = 1 << 20
"""In bytes. The trainer silently skips longer lines."""
RESERVED = str.maketrans({"\u2585": " ", "\u2581": " "})
"""The trainer's own marks of unknown pieces and blanks. It skips lines with the first one."""


class SentencePieceVocabulary(Vocabulary):
    """A sentencepiece model with the ids <pad> 0, <unk> 1, <s> 2 (begin) and </s> 3 (end)."""

    FILE = "sentencepiece.model"

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.size = self.processor.get_piece_size()
        self.padding, self.unknown, self.begin, self.end = 0, UNKNOWN, 2, 3
        ids, processor = (self.padding, self.unknown, self.begin, self.end), self.processor
        if not self.size or ids != (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()):
            raise ValueError(
                "its special pieces are not <pad>, <unk>, <s> and </s>, so it was not made by this package"
            )

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.encode([fold(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        return self.processor.decode([id for id in ids if id not in (self.padding, self.begin, self.end)])

    def piece(self, id: int) -> str:
        return str(self.processor.id_to_piece(id))

    def spell(self) -> list[bytes]:
        pieces = [self.processor.id_to_piece(id) for id in range(self.size)]
        return by_metaspace(pieces, {id for id in range(self.size) if self.processor.is_control(id) or id == UNKNOWN})

    def save(self, folder: Path) -> None:
        (folder / self.FILE).write_bytes(self.model)

    @classmethod
    def load(cls, folder: Path) -> "SentencePieceVocabulary":
        """Read a saved vocabulary."""
        if not (model := (folder / cls.FILE).read_bytes()):
            raise ValueError("it is empty")
        return cls(model)


def train(texts: Iterable[str], size: int) -> SentencePieceVocabulary:
    """Train a unigram model (Kudo, 2018) of at most ``size`` pieces; unseen characters fall back to their bytes.

    Every text is used, whole. Errors: a UserError with a remedy if there is no text, or more characters than ``size``.
    """
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(part for text in texts for part in _learnable(text)),
            model_writer=writer,
            vocab_size=size,
            # Small texts cannot fill the vocabulary, which would otherwise be an error.
            hard_vocab_limit=False,
            # Any other character is spelled in bytes, so that nothing is unknown.
            byte_fallback=True,
            character_coverage=0.9999,
            # Targets must come back from their pieces as they were written.
            normalization_rule_name="identity",
            max_sentence_length=LONGEST,
            num_threads=1,  # with more threads the pieces would depend on the machine
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"vocabulary.size: {_reason(size, str(error))}") from error
    return SentencePieceVocabulary(writer.getvalue())


def _learnable(text: str) -> Iterator[str]:
    """Yield a text as lines that the trainer does not skip; cutting at blanks is harmless, as no piece spans one."""
    line = fold(text.translate(RESERVED))
    # A character has at most 4 bytes, so such a line is short enough without being encoded.
    if len(line) * 4 < LONGEST:
        yield line
        return
    part, size = list[str](), 0
    for word in line.split(" "):
        for at in range(0, len(word), LONGEST // 8):
            piece = word[at : at + LONGEST // 8]
            length = len(piece.encode("utf-8", "replace")) + 1
            if size + length >= LONGEST:
                yield " ".join(part)
                part, size = [], 0
            part.append(piece)
            size += length
    yield " ".join(part)


def _reason(size: int, error: str) -> str:
    """Return what the trainer's error means, and what to do."""
    needed = re.search(r"required_chars\. \d+ vs (\d+)", error)
    if needed:
        return f"{size} pieces cannot hold all characters of the train split; set it to {needed[1]} or more"
    if "sentences_.empty" in error or "all_chars_count" in error:
        return "there is nothing to learn pieces from: the train split has no text that can be seen"
    return f"{size} pieces could not be learnt from the train split: {(error.strip().splitlines() or ['?'])[-1]}"
