"""Trimming a pretrained tokenizer to the pieces that the data uses.

The rest of the tokenizer stays, so new text falls to smaller pieces, and text of the data is cut exactly as before.
Su's ``keep_tokens`` (bert4keras) is the rows' list that comes with it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from tokenizers import Encoding, Tokenizer

from s2s.errors import UserError

Fields = dict[str, Any]
RUN = 4096
"""So many texts are encoded together."""


def trim(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tokenizer, list[int]]:
    """Keep the special pieces, the pieces of the texts and their single characters.

    What only frames sequences (post-processing, cutting, padding) goes. Returns the smaller tokenizer and the old ids
    of its pieces in order. Errors: a UserError for other models than WordPiece, Unigram and BPE.
    """
    fields: Fields = json.loads(tokenizer.to_str()) | {"post_processor": None, "truncation": None, "padding": None}
    whole = Tokenizer.from_str(json.dumps(fields))
    whole.encode_special_tokens = True  # as the vocabulary encodes: a text's "[SEP]" is no special piece
    kind = fields["model"].get("type", "WordPiece" if "continuing_subword_prefix" in fields["model"] else None)
    if kind not in MODELS:
        raise UserError(f"vocabulary.trim: a {kind} tokenizer cannot be trimmed; set vocabulary.trim to false")
    special = {token["id"] for token in fields["added_tokens"]}
    keep = sorted(special.union(MODELS[kind](fields["model"], special | _used(whole, fields, texts))))
    _renumber(fields, {old: new for new, old in enumerate(keep)})
    return Tokenizer.from_str(json.dumps(fields)), keep


def _used(tokenizer: Tokenizer, fields: Fields, texts: Iterable[str]) -> set[int]:
    """Ids that the texts use, whole and as the single characters of their pieces, and all that lie in what is unknown.

    The last are what keeps an unknown word unknown: without them the start of the word might be cut another way.
    """
    used, words, texts = set[int](), set[str](), iter(texts)
    while run := list(islice(texts, RUN)):
        encodings = tokenizer.encode_batch(run, add_special_tokens=False)
        used.update(id for encoding in encodings for id in encoding.ids)
        words |= _unknown_words(tokenizer, fields, run, encodings)
    prefix = fields["model"].get("continuing_subword_prefix") or ""
    pieces = (str(tokenizer.id_to_token(id)) for id in used)
    characters = {character for piece in pieces for character in piece.removeprefix(prefix)}
    longest = max(map(len, tokenizer.get_vocab()))
    unknown = (_parts(word, longest) for word in words)
    parts = chain(characters, chain.from_iterable(unknown))
    found = (tokenizer.token_to_id(form) for part in parts for form in (part, prefix + part, "▁" + part))
    return used | {id for id in found if id is not None}


def _parts(word: str, longest: int) -> Iterator[str]:
    """All stretches of a word of at most ``longest`` characters."""
    for start in range(len(word)):
        for end in range(start + 1, min(len(word), start + longest) + 1):
            yield word[start:end]


def _unknown_words(
    tokenizer: Tokenizer, fields: Fields, texts: Sequence[str], encodings: Sequence[Encoding]
) -> set[str]:
    """The stretches of the texts, as the tokenizer normalises them, that became the unknown piece."""
    unknown = tokenizer.token_to_id(str(fields["model"].get("unk_token")))
    found: set[str] = set()
    for text, encoding in zip(texts, encodings, strict=True):
        if unknown in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            found.update(text[start:end] for id, (start, end) in spans if id == unknown)
    normalizer = tokenizer.normalizer
    return {normalizer.normalize_str(word) if normalizer else word for word in found}


def _keep_wordpiece(model: Fields, used: set[int]) -> list[int]:
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if id in used or piece == model["unk_token"]}
    return list(model["vocab"].values())


def _keep_unigram(model: Fields, used: set[int]) -> list[int]:
    # The unknown piece's score hangs on the least of all scores.
    least = min(range(len(model["vocab"])), key=lambda id: model["vocab"][id][1])

    def stays(id: int, piece: str) -> bool:
        return id in used or id in (model["unk_id"], least) or (model["byte_fallback"] and piece.startswith("<0x"))

    return [id for id, (piece, _) in enumerate(model["vocab"]) if stays(id, piece)]


def _keep_bpe(model: Fields, used: set[int]) -> list[int]:
    """A piece needs its merges, and these their parts, down to the single characters."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    names = {id: piece for piece, id in model["vocab"].items()}
    needed = {names[id] for id in used if id in names} | {piece for piece in model["vocab"] if len(piece) == 1}
    for left, right in reversed(pairs):  # parts come into being before the wholes that use them
        if left + right in needed:
            needed.update((left, right))
    model["merges"] = [list(pair) for pair in pairs if pair[0] + pair[1] in needed]
    needed.update(piece for piece in model["vocab"] if piece.startswith("<0x") or piece == model["unk_token"])
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece in needed}
    return list(model["vocab"].values())


MODELS = {"WordPiece": _keep_wordpiece, "Unigram": _keep_unigram, "BPE": _keep_bpe}


def _renumber(fields: Fields, new: dict[int, int]) -> None:
    """Give every piece its new id."""
    model = fields["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in new]
        model["unk_id"] = new[model["unk_id"]] if model["unk_id"] is not None else None
    else:
        model["vocab"] = {piece: new[id] for piece, id in model["vocab"].items()}
    for token in fields["added_tokens"]:
        token["id"] = new[token["id"]]
