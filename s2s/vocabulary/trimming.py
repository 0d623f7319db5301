"""Trimming a pretrained tokenizer to the pieces that the data uses.

Text of the data is tokenised exactly as before, other text into smaller pieces. The list of kept rows is the
``keep_tokens`` of bert4keras.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from tokenizers import Encoding, Tokenizer

from s2s.errors import UserError

Fields = dict[str, Any]
CHUNK = 4096
"""Number of texts encoded together."""


def trim(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tokenizer, list[int]]:
    """Return a tokenizer of the special pieces, the texts' pieces and their characters, and the old ids in order.

    Post-processing, truncation and padding are removed. Errors: a UserError for other models than WordPiece, Unigram
    and BPE.
    """
    fields: Fields = json.loads(tokenizer.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
    # A copy, as truncation would hide the pieces of long texts.
    whole = Tokenizer.from_str(json.dumps(fields))
    whole.encode_special_tokens = True  # as in PretrainedVocabulary: "[SEP]" in a text is not a special piece
    kind = fields["model"].get("type", "WordPiece" if "continuing_subword_prefix" in fields["model"] else None)
    if kind not in MODELS:
        raise UserError(f"vocabulary.trim: a {kind} tokenizer cannot be trimmed; set vocabulary.trim to false")
    special = {token["id"] for token in fields["added_tokens"]}
    keep = sorted(special.union(MODELS[kind](fields["model"], special | _used(whole, fields, texts))))
    _renumber(fields, {old: new for new, old in enumerate(keep)})
    return Tokenizer.from_str(json.dumps(fields)), keep


def _used(tokenizer: Tokenizer, fields: Fields, texts: Iterable[str]) -> set[int]:
    """Return the ids of the texts' pieces, of the characters of these, and of all pieces inside of unknown words."""
    # Pieces inside of unknown words keep them unknown: without, WordPiece could split the start of a word another way.
    used, words, texts = set[int](), set[str](), iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        encodings = tokenizer.encode_batch(chunk, add_special_tokens=False)
        used.update(id for encoding in encodings for id in encoding.ids)
        words |= _unknown_words(tokenizer, fields, chunk, encodings)
    prefix = fields["model"].get("continuing_subword_prefix") or ""
    pieces = (str(tokenizer.id_to_token(id)) for id in used)
    characters = {character for piece in pieces for character in piece.removeprefix(prefix)}
    longest = max(map(len, tokenizer.get_vocab()))
    unknown = (_parts(word, longest) for word in words)
    parts = chain(characters, chain.from_iterable(unknown))
    ids = (tokenizer.token_to_id(form) for part in parts for form in (part, prefix + part, "▁" + part))
    return used | {id for id in ids if id is not None}


def _parts(word: str, longest: int) -> Iterator[str]:
    """Yield all substrings of a word of at most ``longest`` characters."""
    for start in range(len(word)):
        for end in range(start + 1, min(len(word), start + longest) + 1):
            yield word[start:end]


def _unknown_words(
    tokenizer: Tokenizer, fields: Fields, texts: Sequence[str], encodings: Sequence[Encoding]
) -> set[str]:
    """Return the words that became the unknown piece, as the tokenizer normalises them."""
    unknown = tokenizer.token_to_id(str(fields["model"].get("unk_token")))
    words: set[str] = set()
    for text, encoding in zip(texts, encodings, strict=True):
        if unknown in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            words.update(text[start:end] for id, (start, end) in spans if id == unknown)
    normalizer = tokenizer.normalizer
    return {normalizer.normalize_str(word) if normalizer else word for word in words}


def _keep_wordpiece(model: Fields, used: set[int]) -> list[int]:
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if id in used or piece == model["unk_token"]}
    return list(model["vocab"].values())


def _keep_unigram(model: Fields, used: set[int]) -> list[int]:
    # The score of the unknown piece is computed from the least of all scores, so that piece must stay.
    least = min(range(len(model["vocab"])), key=lambda id: model["vocab"][id][1])

    def stays(id: int, piece: str) -> bool:
        return id in used or id in (model["unk_id"], least) or (model["byte_fallback"] and piece.startswith("<0x"))

    return [id for id, (piece, _) in enumerate(model["vocab"]) if stays(id, piece)]


def _keep_bpe(model: Fields, used: set[int]) -> list[int]:
    """Keep pieces with their merges and the parts of these, down to single characters."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    names = {id: piece for piece, id in model["vocab"].items()}
    needed = {names[id] for id in used if id in names} | {piece for piece in model["vocab"] if len(piece) == 1}
    for left, right in reversed(pairs):  # a merge comes after those of its parts
        if left + right in needed:
            needed.update((left, right))
    model["merges"] = [list(pair) for pair in pairs if pair[0] + pair[1] in needed]
    needed.update(piece for piece in model["vocab"] if piece.startswith("<0x") or piece == model["unk_token"])
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece in needed}
    return list(model["vocab"].values())


MODELS = {"WordPiece": _keep_wordpiece, "Unigram": _keep_unigram, "BPE": _keep_bpe}


def _renumber(fields: Fields, new: dict[int, int]) -> None:
    """Give every piece its new id, in place."""
    model = fields["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in new]
        model["unk_id"] = new[model["unk_id"]] if model["unk_id"] is not None else None
    else:
        model["vocab"] = {piece: new[id] for piece, id in model["vocab"].items()}
    for token in fields["added_tokens"]:
        token["id"] = new[token["id"]]
