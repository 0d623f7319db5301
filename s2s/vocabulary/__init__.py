"""Vocabularies: settings, training on a train split, saving and loading."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from s2s.config.merge import name_of
from s2s.config.outside_names import outside
from s2s.config.ranges import Count, PathText, at_least, settle
from s2s.errors import UserError, first_line, nearest
from s2s.files.folders import AGAIN
from s2s.vocabulary import pretrained, sentence_pieces
from s2s.vocabulary.base import Vocabulary
from s2s.vocabulary.layouts import LayoutRequest
from s2s.vocabulary.pretrained import PretrainedVocabulary
from s2s.vocabulary.sentence_pieces import SentencePieceVocabulary

__all__ = ["Vocabulary", "VocabularySettings", "load", "make", "save"]

KINDS: dict[str, type[SentencePieceVocabulary] | type[PretrainedVocabulary]] = {
    "sentencepiece": SentencePieceVocabulary,
    "pretrained": PretrainedVocabulary,
}
KIND_FILE = "kind"


@dataclass
class VocabularySettings:
    """A recipe's ``vocabulary:``."""

    kind: str = "sentencepiece"  # sentencepiece, trained on the train split, or pretrained
    # largest number of pieces, for sentencepiece; 260 are bytes or special
    size: Annotated[int, at_least(300, 10_000_000)] = 8000
    sample: Count = 200_000  # largest number of examples that sentencepiece learns from, evenly spaced
    # the tokenizer, for pretrained; null: that of model.pretrained
    name: PathText | None = field(default=None, metadata=outside("NAME"))
    trim: bool = True  # keep only the pieces that the train split uses, for pretrained, and for the prefix LM alone

    def __post_init__(self) -> None:
        settle(self, "vocabulary.")
        if self.kind not in KINDS:
            raise UserError(f"vocabulary.kind: no kind '{self.kind}'{nearest(self.kind, KINDS)}")


def make(
    settings: VocabularySettings,
    pretrained_path: str | None,
    texts: Callable[[], Iterable[str]],
    request: LayoutRequest | None = None,
) -> Vocabulary:
    """Make a vocabulary for the train split's texts; ``pretrained_path`` is that of a pretrained tokenizer.

    ``request`` asks for the layout of a model of ``transformers``, whose vocabulary is never trimmed.
    """
    if settings.kind == "sentencepiece":
        return sentence_pieces.train(texts(), settings.size)
    if pretrained_path is None:
        raise UserError("vocabulary.name: kind 'pretrained' needs a name here or in model.pretrained")
    whole = pretrained.read(pretrained_path, request)
    return pretrained.trimmed(whole, texts()) if settings.trim and request is None else whole


def save(vocabulary: Vocabulary, folder: Path) -> None:
    """Write a vocabulary into an existing folder."""
    vocabulary.save(folder)
    kind = name_of(KINDS, vocabulary)
    (folder / KIND_FILE).write_text(kind, encoding="utf-8", newline="\n")


def load(folder: Path) -> Vocabulary:
    """Read a saved vocabulary. Errors: a UserError that names the file that is missing or damaged."""
    path = folder / KIND_FILE
    try:
        kind = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {AGAIN}") from error
    if kind not in KINDS:
        raise UserError(f"{path}: no kind {kind[:40]!r} of vocabulary; {AGAIN}{nearest(kind, KINDS)}")
    try:
        return KINDS[kind].load(folder)
    except UserError:
        raise
    except Exception as error:  # each library has its own for a damaged file; that of tokenizers is a bare Exception
        raise UserError(f"{folder / KINDS[kind].FILE}: cannot be read ({first_line(error)}); {AGAIN}") from error
