"""What each piece of a vocabulary adds to a text, as bytes: a text is what its pieces add, one after the other.

Blanks stand before the words they part, the first one too. WordPiece parts all pieces but continuations by blanks.
"""

import re
from collections.abc import Collection, Sequence

BYTE = re.compile("<0x([0-9A-F]{2})>")


def by_metaspace(pieces: Sequence[str], special: Collection[int]) -> list[bytes]:
    """Of sentencepiece's pieces, with bytes for what no piece has; special ones add nothing."""
    return [b"" if id in special else _metaspace(piece) for id, piece in enumerate(pieces)]


def by_words(pieces: Sequence[str], special: Collection[int], continuation: str = "##") -> list[bytes]:
    """Of WordPiece's pieces, which go on with a word where they begin with ``continuation``."""
    spelled = [piece.removeprefix(continuation) if piece.startswith(continuation) else f" {piece}" for piece in pieces]
    return [b"" if id in special else text.encode() for id, text in enumerate(spelled)]


def by_bytes(pieces: Sequence[str], special: Collection[int]) -> list[bytes]:
    """Of GPT-2's pieces, whose characters stand for bytes."""
    table = _byte_characters()
    return [
        b"" if id in special else b"".join(table.get(character, character.encode()) for character in piece)
        for id, piece in enumerate(pieces)
    ]


def _metaspace(piece: str) -> bytes:
    byte = BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_characters() -> dict[str, bytes]:
    """Bytes that are printable in Latin-1 stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}
