"""Vocabularies of ``transformers`` tokenizers, whole or trimmed."""

import json
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from s2s.errors import UserError
from s2s.vocabulary.base import Vocabulary, fold
from s2s.vocabulary.spelling import by_bytes, by_metaspace, by_words
from s2s.vocabulary.trim import trim

KEPT = "kept_rows.json"
# WordPiece puts a blank between all pieces; Chinese and Japanese are written without.
IDEOGRAPH = "[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef\U00020000-\U0003ffff]"
BETWEEN_IDEOGRAPHS = re.compile(f"(?<={IDEOGRAPH}) (?={IDEOGRAPH})")


class PretrainedVocabulary(Vocabulary):
    """A ``transformers`` tokenizer; begin and end are [CLS] and [SEP], or what the tokenizer has in their place."""

    FILE = "tokenizer.json"

    def __init__(self, tokenizer: Any, keep: list[int] | None = None) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        self.keep = keep
        end = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
        if end is None:
            raise UserError("vocabulary: the tokenizer has neither a separator nor an end of sequence")
        self.end = end
        self.begin = _first(tokenizer.cls_token_id, tokenizer.bos_token_id, end)
        self.padding = _first(tokenizer.pad_token_id, end)
        self.unknown = _first(tokenizer.unk_token_id, self.padding)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.blanks_between_pieces = type(getattr(backend, "model", None)).__name__ == "WordPiece"

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        folded = [fold(text) for text in texts]
        if not folded:
            return []
        encoded = self.tokenizer(
            folded,
            add_special_tokens=False,
            split_special_tokens=True,  # a text that holds "[SEP]" does not end there
            return_attention_mask=False,
            verbose=False,
        )
        return [self._plain(row) for row in encoded["input_ids"]]

    def _plain(self, ids: list[int]) -> list[int]:
        """The ids without the special ones, which a unigram model finds in a text that spells them."""
        special = {self.begin, self.end, self.padding}
        if special.isdisjoint(ids):
            return ids
        unknown = self.tokenizer.unk_token_id
        instead = [] if unknown is None or unknown in special else [unknown]
        return [plain for id in ids for plain in (instead if id in special else [id])]

    def decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        return BETWEEN_IDEOGRAPHS.sub("", text) if self.blanks_between_pieces else text

    def piece(self, id: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(id))

    def spell(self) -> list[bytes]:
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(self.size)))
        decoder = type(getattr(getattr(self.tokenizer, "backend_tokenizer", None), "decoder", None)).__name__
        in_words = by_words if self.blanks_between_pieces else by_metaspace
        return (by_bytes if decoder == "ByteLevel" else in_words)(pieces, set(self.tokenizer.all_special_ids))

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / KEPT).write_text(json.dumps(self.keep), encoding="utf-8", newline="\n")

    def digest(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        pieces = backend.to_str() if backend else json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return sha256(json.dumps([pieces, self.begin, self.end, self.padding]).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> "PretrainedVocabulary":
        """Read a saved vocabulary."""
        return cls(AutoTokenizer.from_pretrained(folder), json.loads((folder / KEPT).read_text(encoding="utf-8")))


def _first(*ids: int | None) -> Any:
    return next((id for id in ids if id is not None), None)


def read(place: str) -> PretrainedVocabulary:
    """Read a whole tokenizer from a path or the hub."""
    try:
        return PretrainedVocabulary(AutoTokenizer.from_pretrained(place))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"vocabulary.name: no tokenizer at '{place}': {reason}") from error


def trimmed(vocabulary: PretrainedVocabulary, texts: Iterable[str]) -> PretrainedVocabulary:
    """The vocabulary cut down to the pieces of the texts; ``keep`` holds their rows in the pretrained embedding."""
    whole = vocabulary.tokenizer
    if not getattr(whole, "is_fast", False):
        raise UserError("vocabulary.trim: only tokenizers of the tokenizers library can be trimmed; set it to false")
    smaller, keep = trim(whole.backend_tokenizer, (fold(text) for text in texts))
    special = {name: str(token) for name, token in whole.special_tokens_map.items() if isinstance(token, str)}
    return PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=smaller, **special), keep)
