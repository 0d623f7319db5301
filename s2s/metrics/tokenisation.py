"""Words and characters of a text in any script, for metrics.

Texts are compared in Unicode's composed form (NFC), in which an accented letter is one character however it was typed.
A mark (an Arabic or Hebrew vowel, a Devanagari vowel sign or virama, a Thai tone, a combining accent, the voicing of
half-width katakana) belongs to the letter before it and never ends a word; neither does a joiner (ZWJ, ZWNJ) between
two letters. Characters that only choose a glyph (variation selectors, the keycap of emoji) are left out.

Scripts without blanks cannot be split into words without a dictionary. There a word is one character with its marks
and with the letters stacked below it: Chinese, Japanese, Thai, Lao, Khmer, Burmese. Korean has blanks, but between
phrases of several parts, so each of its syllables counts as a word. Emoji and punctuation are not part of any word.
"""

import re
import unicodedata
from functools import cache
from itertools import groupby

# Iteration marks, kana (with their extensions, half-width and historic forms), ideographs (with the extensions and
# compatibility forms) and hangul syllables; then Thai and Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet
# and Ahom, which are Unicode's scripts of "complex context" in line breaking.
_UNSPACED = (
    "\u3005-\u3007\u3031-\u3035\u303b\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\uac00-\ud7a3"
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"
    "\U00011700-\U0001174f"
)
_DIGITS = r"\d\u17f0-\u17f9\u19da\U0001173a\U0001173b"  # digits that Python's \d leaves out
_JOINERS = "\u200c\u200d"
_STACKING = "\u1039\u17d2\u1a60"  # signs of Myanmar, Khmer and Tai Tham that stack the next letter below this one
_GLYPHS = re.compile("[\ufe00-\ufe0f\u20e3\u180b-\u180d\u180f\U000e0100-\U000e01ef]")


def composed(text: str) -> str:
    """Return the text in NFC."""
    return unicodedata.normalize("NFC", text)


def words(text: str) -> list[str]:
    r"""Return lower-cased runs of word characters (``\w``) with their marks; in scripts without blanks, each character.

    In Korean each syllable is a word. Digits form runs in every script.
    """
    text = text.lower()
    if text.isascii():
        return re.findall(r"\w+", text)
    return _word().findall(_GLYPHS.sub("", composed(text)))


def characters(text: str) -> list[str]:
    """Return the lower-cased code points other than white space; marks are separate, as chrF counts them."""
    return list("".join(text.lower().split()))


@cache
def _word() -> re.Pattern[str]:
    """Return the pattern of a word; it is built on first use, from all code points, as ``re`` has no class of marks."""
    # All marks but the variation selectors are in the first two planes. Four are letters by their category: the vowel
    # AM of Thai and of Lao, which decomposes into a mark and a vowel, and the half-width voicing marks of katakana.
    is_mark = lambda code: unicodedata.category(chr(code)).startswith("M")  # noqa: E731
    runs = [list(codes) for marks, codes in groupby(range(0x300, 0x20000), is_mark) if marks]
    mark = f"[{''.join(f'{chr(codes[0])}-{chr(codes[-1])}' for codes in runs)}\u0e33\u0eb3\uff9e\uff9f]"
    # The look-aheads exclude characters of these blocks that are no letters, such as the middle dot of katakana.
    single, other = rf"(?=\w)(?![{_DIGITS}])[{_UNSPACED}]", rf"(?:(?![{_UNSPACED}])\w|[{_DIGITS}])"
    return re.compile(
        rf"{single}(?:[{_JOINERS}]*{mark}|(?<=[{_STACKING}])\w)*|{other}(?:[{_JOINERS}]*(?:{mark}|{other}))*"
    )
