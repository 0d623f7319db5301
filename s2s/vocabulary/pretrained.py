"""Vocabularies of ``transformers`` tokenizers, whole or trimmed."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from s2s.errors import UserError, first_line
from s2s.files.folders import AGAIN
from s2s.files.foreign import FAILURES, check_checkpoint, check_tokenizer, read_json
from s2s.vocabulary.base import Vocabulary, fold
from s2s.vocabulary.joining import blanks_before, settled, without_blank
from s2s.vocabulary.layouts import Layout, LayoutEncoder, LayoutRequest, first_known, layout_of
from s2s.vocabulary.spelling import by_bytes, by_metaspace, by_words
from s2s.vocabulary.trimming import trim

KEPT, LAYOUT = "kept_rows.json", "layout.json"


class PretrainedVocabulary(Vocabulary):
    """A ``transformers`` tokenizer; begin and end are [CLS] and [SEP], or the tokenizer's begin and end of sequence."""

    FILE = "tokenizer.json"

    def __init__(self, tokenizer: Any, keep: list[int] | None = None, layout: Layout | None = None) -> None:
        self.tokenizer, self.layout = tokenizer, layout
        self.size = len(tokenizer)
        self.keep = keep
        end = first_known(tokenizer.sep_token_id, tokenizer.eos_token_id) if layout is None else layout.end
        if end is None:
            raise UserError("vocabulary: the tokenizer has neither a separator nor an end of sequence")
        self.end = end
        # GPT-2 and its like have neither [CLS] nor padding; their one special token serves as both.
        self.begin = first_known(tokenizer.cls_token_id, tokenizer.bos_token_id, end)
        self.padding = first_known(tokenizer.pad_token_id, end) if layout is None else layout.padding
        self.prefix = [] if layout is None else layout.prefix
        self.roles = super().roles if layout is None else ("template", "source", "begin", "target")
        self.encoder = None if layout is None else LayoutEncoder(tokenizer, layout)
        self.unknown = first_known(tokenizer.unk_token_id, self.padding)
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self.word_pieces = type(getattr(backend, "model", None)).__name__ == "WordPiece"
        self.continuation = backend.model.continuing_subword_prefix if self.word_pieces else ""
        self.marks_are_words = self.word_pieces and _parts_marks(backend)

    @property
    def opening(self) -> Sequence[int]:
        return super().opening if self.layout is None else self.layout.opening

    @property
    def closing(self) -> Sequence[int]:
        return super().closing if self.layout is None else self.layout.closing

    @property
    def start(self) -> int:
        return super().start if self.layout is None else self.layout.start

    @property
    def never_written(self) -> list[int]:
        # The library's decoders may have learnt nothing of their padding, which Marian's even bans by a list.
        padding = [] if self.layout is None or self.padding == self.end else [self.padding]
        return [*super().never_written, *padding]

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        if self.encoder is None:
            return self.encode_all(texts)
        return [self._plain(row) for row in self.encoder.sources([fold(text) for text in texts])]

    def layout_report(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        if self.encoder is None:
            return []
        folded = [(fold(source), fold(target)) for source, target in pairs]
        if not (differ := self.encoder.differences(folded)):
            return []
        return [
            f"data.template: of {len(pairs)} tested, {len(differ)} have other pieces at the joins than one text has "
            f"(first: {differ[0][0][-30:]!r} and {differ[0][1][:30]!r}); both sides are encoded apart"
        ]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        folded = [fold(text) for text in texts]
        if self.encoder is not None:
            return [self._plain(row) for row in self.encoder.targets(folded)]
        if not folded:
            return []
        encoded = self.tokenizer(
            folded,
            add_special_tokens=False,
            split_special_tokens=True,  # a user's text with "[SEP]" must not end there
            return_attention_mask=False,
            verbose=False,
        )
        return [self._plain(row) for row in encoded["input_ids"]]

    def _plain(self, ids: list[int]) -> list[int]:
        """Return the ids without special ones, which a unigram model still finds in a text that spells them."""
        special = {self.begin, self.end, self.padding}
        if special.isdisjoint(ids):
            return ids
        unknown = self.tokenizer.unk_token_id
        instead = [] if unknown is None or unknown in special else [unknown]
        return [plain for id in ids for plain in (instead if id in special else [id])]

    def decode(self, ids: Sequence[int]) -> str:
        if self.word_pieces:
            # Not the tokenizer's own decode, which leaves blanks around most marks.
            return "".join(self.shares(ids))
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def settled(self, ids: Sequence[int]) -> str:
        if not self.word_pieces:
            return super().settled(ids)
        words, owners = self._words(ids)
        # The blanks around a mark depend on the words after it, and the last word may still grow.
        count = settled(words) if self.marks_are_words else len(words) - 1
        return "".join(share for share, owner in zip(self.shares(ids), owners, strict=True) if owner < count)

    def shares(self, ids: Sequence[int]) -> list[str]:
        if not self.word_pieces:
            return super().shares(ids)
        words, owners = self._words(ids)
        blanks, texts, last = self._blanks(words), list[str](), -1
        for id, owner in zip(ids, owners, strict=True):
            begins = owner != last
            text = "" if id in self.special else self.pieces[id].removeprefix(self.continuation)
            texts.append(f" {text}" if begins and text and blanks[owner] else text)
            last = owner if text else last
        return texts

    def continuing(self, in_word: bool) -> list[bool]:
        if not self.word_pieces:
            return super().continuing(in_word)
        return [self._continues(piece) for piece in self.pieces]

    def _continues(self, piece: str) -> bool:
        return bool(self.continuation) and piece.startswith(self.continuation)

    @cached_property
    def pieces(self) -> list[str]:
        """The pieces by their ids."""
        return [str(piece) for piece in self.tokenizer.convert_ids_to_tokens(list(range(self.size)))]

    @cached_property
    def special(self) -> frozenset[int]:
        """The ids without a text."""
        # Llama 3 lists the marks of its chats among the added tokens alone.
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset([*self.tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)])

    @property
    def marks(self) -> frozenset[int]:
        return self.special - {self.padding, self.unknown, self.begin, self.end}

    def _words(self, ids: Sequence[int]) -> tuple[list[str], list[int]]:
        """Return the words of WordPiece's ids, and the index of the word of each id; special ids have no text."""
        words, owners = list[str](), list[int]()
        for id in ids:
            piece = self.pieces[id]
            if id in self.special:
                owners.append(max(0, len(words) - 1))
                continue
            if self._continues(piece) and words:
                words[-1] += piece.removeprefix(self.continuation)
            else:
                words.append(piece.removeprefix(self.continuation))
            owners.append(len(words) - 1)
        return words, owners

    def _blanks(self, words: Sequence[str]) -> list[bool]:
        """Return for each word whether there is a blank before it."""
        if self.marks_are_words:
            return blanks_before(words)
        return [at > 0 and not without_blank(words[at - 1], word) for at, word in enumerate(words)]

    def piece(self, id: int) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(id))

    def spell(self) -> list[bytes]:
        if self.word_pieces:
            return by_words(self.pieces, self.special, self.continuation)
        decoder = type(getattr(getattr(self.tokenizer, "backend_tokenizer", None), "decoder", None)).__name__
        return (by_bytes if decoder == "ByteLevel" else by_metaspace)(self.pieces, self.special)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / KEPT).write_text(json.dumps(self.keep), encoding="utf-8", newline="\n")
        if self.layout is not None:
            (folder / LAYOUT).write_text(json.dumps(self.layout.values()), encoding="utf-8", newline="\n")

    def digest(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        pieces = backend.to_str() if backend else json.dumps(sorted(self.tokenizer.get_vocab().items()))
        layout = [] if self.layout is None else [self.layout.values()]
        return sha256(json.dumps([pieces, self.begin, self.end, self.padding, *layout]).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> "PretrainedVocabulary":
        """Read a saved vocabulary."""
        check_tokenizer(folder)
        try:
            # The folder may be a stranger's: none of its code runs, and nothing is fetched because it says so.
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except FAILURES as error:
            raise UserError(f"{folder}: no tokenizer can be read there: {first_line(error)}") from error
        return cls(tokenizer, _kept(folder / KEPT, len(tokenizer)), _layout(folder / LAYOUT, len(tokenizer)))


def _layout(path: Path, size: int) -> Layout | None:
    """Read how the vocabulary lays out texts; None for that of the prefix LM."""
    if not path.is_file():
        return None
    try:
        layout = Layout(**read_json(path))
        ids = [*layout.opening, *layout.closing, *layout.prefix, layout.start, layout.end, layout.padding]
        if not all(type(id) is int and 0 <= id < size for id in ids):
            raise ValueError("ids beyond the vocabulary")
        if not isinstance(layout.before, str) or not isinstance(layout.between, str):
            raise ValueError("no texts")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no layout of a vocabulary ({first_line(error)}); {AGAIN}") from error
    return layout


def _kept(path: Path, size: int) -> list[int] | None:
    """Read the row of the pretrained embedding for each piece; None for an untrimmed vocabulary."""
    try:
        rows = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from error
    if rows is not None and not (
        isinstance(rows, list) and len(rows) == size and all(type(row) is int and row >= 0 for row in rows)
    ):
        raise UserError(f"{path}: not null and no list of {size} row numbers, one for each piece; {AGAIN}")
    return rows


def _parts_marks(backend: Any) -> bool:
    """Return whether a tokenizer makes words of marks, so that the blanks around them are lost."""
    splitter = backend.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("a-b")) == 3


def read(name_or_path: str, request: LayoutRequest | None = None) -> PretrainedVocabulary:
    """Read an untrimmed tokenizer from a path or the hub; ``request`` asks for the layout of another model's kind."""
    try:
        if Path(name_or_path).is_dir():
            check_checkpoint(Path(name_or_path))
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except FAILURES as error:
        raise UserError(f"vocabulary.name: no tokenizer at '{name_or_path}': {first_line(error)}") from error
    return PretrainedVocabulary(tokenizer, None, None if request is None else layout_of(tokenizer, request))


def trimmed(vocabulary: PretrainedVocabulary, texts: Iterable[str]) -> PretrainedVocabulary:
    """Return the vocabulary cut down to the pieces of the texts; ``keep`` has their rows in the old embedding."""
    whole = vocabulary.tokenizer
    if not getattr(whole, "is_fast", False):
        raise UserError("vocabulary.trim: only tokenizers of the tokenizers library can be trimmed; set it to false")
    smaller, keep = trim(whole.backend_tokenizer, (fold(text) for text in texts))
    special = {name: str(token) for name, token in whole.special_tokens_map.items() if isinstance(token, str)}
    return PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=smaller, **special), keep)
