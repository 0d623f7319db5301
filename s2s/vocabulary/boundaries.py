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


def characters(spelled: bytes) -> list[bytes]:
    """Cut bytes into characters; the first and the last may lack some of theirs."""
    starts = [at for at, byte in enumerate(spelled) if byte & 0xC0 != 0x80]
    if not starts or starts[0]:
        starts.insert(0, 0)
    return [spelled[start:end] for start, end in zip(starts, [*starts[1:], len(spelled)], strict=True) if start < end]


@cache
def byte_in_word(character: bytes) -> bool:
    """Return ``in_word`` of a character's bytes; where the last of them are missing, of most characters like it."""
    try:
        return in_word(character.decode())
    except UnicodeDecodeError:
        pass
    lacking = {0xC0: 1, 0xE0: 2, 0xF0: 3}.get(character[0] & (0xF0 if character[0] >= 0xE0 else 0xE0), 0)
    lacking -= len(character) - 1
    if lacking < 1:
        return True  # later bytes, of a character that began in the piece before
    within = [_completed(character, bits, lacking) for bits in range(0, 64**lacking, 64 ** (lacking - 1) // 4 or 1)]
    known = [in_word(text) for text in within if text and unicodedata.category(text) != "Cn"]
    return 2 * sum(known) > len(known)


def _completed(character: bytes, bits: int, lacking: int) -> str:
    rest = bytes(0x80 | (bits >> 6 * (lacking - 1 - place)) & 0x3F for place in range(lacking))
    return (character + rest).decode(errors="ignore")


def begins_in_word(text: bytes) -> bool:
    """Return whether a text begins with a character of a word, or within one."""
    return bool(text) and byte_in_word(characters(text)[0])
