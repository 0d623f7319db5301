"""Where words begin and end in what pieces spell, for texts that are to match whole words.

A word is a run of letters, digits and the marks that belong to them. Writing without blanks (Chinese, Japanese, Thai,
Lao, Khmer, Burmese, Tibetan) tells no words: each of its characters begins and ends where it stands.
"""

import re
import unicodedata
from functools import cache

BLANKLESS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u9fff\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00016f00-\U00018fff\U0001b000-\U0001b2ff\U00020000-\U0003ffff]"
)

UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffd"
"""Letters and signs that have no ink, and the sign for what could not be read."""


def in_word(character: str) -> bool:
    """Return whether a character goes on with the word of the one before it, if that is such a character too."""
    return (character.isalnum() or unicodedata.category(character)[0] == "M") and not BLANKLESS.match(character)


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: white space, controls, marks of zero width, fillers, U+FFFD."""
    return all(character.isspace() or character in UNSEEN or _is_control(character) for character in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") or "\ufe00" <= character <= "\ufe0f"


def cut(spelled: bytes, begun: bytes = b"") -> tuple[list[bytes], bytes]:
    """Cut bytes that follow those of a begun character into whole characters and the bytes of the next one.

    Bytes that cannot be read count as a character of no word.
    """
    found = list[bytes]()
    for byte in spelled:
        character = begun + bytes([byte])
        if begun and len(character.decode(errors="replace")) > 1:  # the next byte belongs to another one
            found.append(begun)
            character = character[-1:]
        begun = character if is_begun(character) else b""
        if not begun:
            found.append(character)
    return found, begun


def is_begun(character: bytes) -> bool:
    """Return whether bytes are the first ones of a character that lacks its last."""
    try:
        character.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


@cache
def bytes_in_word(character: bytes) -> bool:
    """Return ``in_word`` of a character's bytes, and False for what cannot be read."""
    return in_word(character.decode(errors="replace"))


@cache
def endings(begun: bytes) -> bytes:
    """Return which last bytes make a begun character go on with a word: the same for all that end alike."""
    longer = [begun + bytes([byte]) for byte in range(0x80, 0xC0)]
    try:
        return bytes(map(in_word, b"".join(longer).decode()))
    except UnicodeDecodeError:
        return b"".join(endings(each) if is_begun(each) else b"\2" for each in longer)


def begins_in_word(text: bytes) -> bool:
    """Return whether a text begins with a character of a word, or within one.

    Where it has but the first bytes of a character, most of those that begin so decide.
    """
    whole, begun = cut(text)
    if not whole:
        known = _assigned(begun) if begun else []
        return 2 * sum(map(in_word, known)) > len(known)
    return bytes_in_word(whole[0]) or text[0] & 0xC0 == 0x80


@cache
def _assigned(begun: bytes) -> list[str]:
    """Return the characters that begin with some bytes."""
    longer = [begun + bytes([byte]) for byte in range(0x80, 0xC0)]
    texts = [each.decode(errors="ignore") for each in longer]
    deeper = [character for each in longer if is_begun(each) for character in _assigned(each)]
    return [*(text for text in texts if text and unicodedata.category(text) != "Cn"), *deeper]
