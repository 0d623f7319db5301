"""The bytes that each piece adds to a text, and where words begin and end in them.

A text is the concatenation of its pieces' bytes. A blank belongs to the word after it, also at the start of the text;
WordPiece has a blank before every piece that is not a continuation.

A word is a run of letters, digits and their marks. Scripts without blanks (Chinese, Japanese, Thai, Lao, Khmer,
Burmese, Tibetan) do not show words: each of their characters is a word by itself.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from functools import cache

BYTE = re.compile("<0x([0-9A-F]{2})>")


def by_metaspace(pieces: Sequence[str], special: Collection[int]) -> list[bytes]:
    """Return the bytes of sentencepiece's pieces, byte pieces (``<0xE4>``) among them; special ones add nothing."""
    return [b"" if id in special else _metaspace(piece) for id, piece in enumerate(pieces)]


def by_words(pieces: Sequence[str], special: Collection[int], continuation: str = "##") -> list[bytes]:
    """Return the bytes of WordPiece's pieces; those that begin with ``continuation`` continue a word."""
    spelled = [piece.removeprefix(continuation) if piece.startswith(continuation) else f" {piece}" for piece in pieces]
    return [b"" if id in special else text.encode() for id, text in enumerate(spelled)]


def by_bytes(pieces: Sequence[str], special: Collection[int]) -> list[bytes]:
    """Return the bytes of GPT-2's pieces, in which each character represents a byte."""
    table = _byte_characters()
    return [
        b"" if id in special else b"".join(table.get(character, character.encode()) for character in piece)
        for id, piece in enumerate(pieces)
    ]


def _metaspace(piece: str) -> bytes:
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_characters() -> dict[str, bytes]:
    """Return GPT-2's table: bytes printable in Latin-1 are their own character, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}


# Thai, Lao, Tibetan, Burmese and Khmer; from the CJK radicals over kana and bopomofo to the ideographs, with the later
# blocks of each; Miao, Tangut, Khitan and Nushu.
BLANKLESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u9fff\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00016f00-\U00018fff\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"
)

UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffd"
"""Letters and signs without ink, and U+FFFD, the sign for unreadable bytes."""


def in_word(character: str) -> bool:
    """Return whether a character continues the word of the one before it, if that one is such a character too."""
    return (character.isalnum() or unicodedata.category(character)[0] == "M") and not BLANKLESS.match(character)


def is_blank(text: str) -> bool:
    """Return whether a text is invisible: white space, controls, marks of zero width, fillers, U+FFFD."""
    return all(character.isspace() or character in UNSEEN or _is_control(character) for character in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") or "\ufe00" <= character <= "\ufe0f"


def cut(spelled: bytes, begun: bytes = b"") -> tuple[list[bytes], bytes]:
    """Cut bytes into whole characters and the first bytes of an unfinished one; ``begun`` are those from before.

    Invalid bytes count as a character that belongs to no word.
    """
    characters = list[bytes]()
    for byte in spelled:
        character = begun + bytes([byte])
        if begun and len(character.decode(errors="replace")) > 1:  # the next byte belongs to another one
            characters.append(begun)
            character = character[-1:]
        begun = character if is_begun(character) else b""
        if not begun:
            characters.append(character)
    return characters, begun


def is_begun(character: bytes) -> bool:
    """Return whether bytes are the beginning of an unfinished character."""
    try:
        character.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


@cache
def bytes_in_word(character: bytes) -> bool:
    """Return ``in_word`` for a character's bytes; False for invalid bytes."""
    return in_word(character.decode(errors="replace"))


@cache
def endings(begun: bytes) -> bytes:
    """Return a key of which last bytes make an unfinished character continue a word: equal keys behave equally."""
    longer = [begun + bytes([byte]) for byte in range(0x80, 0xC0)]
    try:
        return bytes(map(in_word, b"".join(longer).decode()))
    except UnicodeDecodeError:
        return b"".join(endings(start) if is_begun(start) else b"\2" for start in longer)


def begins_in_word(text: bytes) -> bool:
    """Return whether a text begins with a character of a word, or in the middle of a character.

    For the first bytes of a character alone, the majority of characters that begin with them decides.
    """
    whole, begun = cut(text)
    if not whole:
        known = _assigned(begun) if begun else []
        return 2 * sum(map(in_word, known)) > len(known)
    return bytes_in_word(whole[0]) or text[0] & 0xC0 == 0x80


@cache
def _assigned(begun: bytes) -> list[str]:
    """Return the assigned characters that begin with some bytes."""
    longer = [begun + bytes([byte]) for byte in range(0x80, 0xC0)]
    texts = [start.decode(errors="ignore") for start in longer]
    deeper = [character for start in longer if is_begun(start) for character in _assigned(start)]
    return [*(text for text in texts if text and unicodedata.category(text) != "Cn"), *deeper]
