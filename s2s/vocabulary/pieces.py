"""Vocabularies of sentencepiece, trained on the train split."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from s2s.errors import UserError
from s2s.vocabulary.base import Vocabulary, fold
from s2s.vocabulary.spelling import by_metaspace

UNKNOWN = 1


class SentencePieceVocabulary(Vocabulary):
    """A sentencepiece model with the ids <pad> 0, <unk> 1, <s> 2 (begin) and </s> 3 (end)."""

    FILE = "sentencepiece.model"

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.size = self.processor.get_piece_size()
        self.padding, self.unknown, self.begin, self.end = 0, 1, 2, 3

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
    """Train a unigram model (Kudo 2018) of at most ``size`` pieces; unseen characters fall back to their bytes."""
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(fold(text) for text in texts),
            model_writer=writer,
            vocab_size=size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,  # longer lines would be left out without a word
            num_threads=1,  # the pieces must not depend on the machine
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"vocabulary.size: {size} pieces could not be trained on this data: {reason}") from error
    return SentencePieceVocabulary(writer.getvalue())
