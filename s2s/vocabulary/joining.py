"""Blanks for texts of which only words and punctuation marks are left, as after BERT's tokenizers.

WordPiece splits ``state-of-the-art`` and ``3.14`` at every mark and forgets which parts had a blank between them. The
rules here put blanks where most texts have them: none before a mark that closes, none after one that opens, none around
a hyphen, a slash or an underscore. They were checked on captions in four languages, package descriptions and
docstrings. Where a mark is used both ways (a dash between blanks, a path that ends with a slash) the more frequent use
wins, so not every text comes back unchanged.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

IDEOGRAPH = re.compile("[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef\U00020000-\U0003ffff]")
"""Chinese and Japanese are written without blanks."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONTRACTED = _words("s t re ve ll d m")
"""English words that follow an apostrophe: it's, don't, we'll."""
ELIDED = _words("c d j l m n o s t qu jusqu lorsqu puisqu quelqu aujourd all dall dell nell sull")
"""French, Italian and Irish words that an apostrophe cuts short: l'eau, dell'arte, O'Brien."""
DOMAINS = _words("com org net edu gov io info de fr uk eu ch at cz ru cn jp us")
ENDINGS = _words(
    "html htm txt pdf ps png jpg jpeg gif svg xml json jsonl yaml yml toml csv tsv md rst py js css php cpp java zip "
    "gz bz2 xz tar exe dll conf cfg ini log mp3 mp4 wav"
)
"""Endings of addresses and of files: a dot before them does not end a sentence."""
RUNS = set(".-+:/*_=&|#~<>`!?\\")
"""Marks that are one mark when repeated: ``...``, ``::``, ``--``."""
OPERATORS = {"->", "=>", "<=", ">=", "!=", "+=", "-=", "*=", ":=", "<-", "?!", "!?", "</", "/>"}

BEGINNINGS = {"", "(", "[", "{", "'", '"', "`", "/", "="}
"""After these, a hyphen or dash begins the name of an option."""

Sides = tuple[bool, bool]
"""Whether a mark has no blank before it, and none after it."""
APART, BEFORE, AFTER, BOTH = (False, False), (True, False), (False, True), (True, True)


class Around(NamedTuple):
    """The neighbours of a mark, "" beyond the ends of the text; ``second`` follows ``after``."""

    before: str
    after: str
    second: str
    earlier: str  # is before ``before``

    @property
    def between_words(self) -> bool:
        """Whether there is a word on both sides."""
        return is_word(self.before) and is_word(self.after)

    @property
    def between_digits(self) -> bool:
        """Whether there is a digit on both sides."""
        return self.before[-1:].isdigit() and self.after[:1].isdigit()


def join(words: Sequence[str]) -> str:
    """Return the text of words and marks, with blanks where they most likely were."""
    return "".join(f" {word}" if blank else word for word, blank in zip(words, blanks_before(words), strict=True))


def blanks_before(words: Sequence[str]) -> list[bool]:
    """Return for each word or mark whether there is a blank before it, never before the first one.

    The rules look at all that comes before and at no more than two words that follow.
    """
    marks, starts = _marks(words)
    sides, opened = list[Sides](), set[str]()
    for at, mark in enumerate(marks):
        decided = APART
        if not is_word(mark):
            before, earlier = (marks[at - 1] if at else ""), (marks[at - 2] if at > 1 else "")
            after, second, *_ = [*marks[at + 1 : at + 3], "", ""]
            decided = _sides(mark, Around(before, after, second, earlier), opened)
        sides.append(decided)
    blanks = [False] * len(words)
    for at in range(1, len(marks)):
        touching = sides[at - 1][1] or sides[at][0] or without_blank(marks[at - 1], marks[at])
        blanks[starts[at]] = not touching
    return blanks


def settled(words: Sequence[str]) -> int:
    """Return the number of first words whose blanks no later word can change.

    Two words without a mark between them shield what is before them from later marks. The last word may still grow.
    """
    for at in range(len(words) - 3, -1, -1):
        if is_word(words[at]) and is_word(words[at + 1]):
            return at + 1
    return 0


def without_blank(left: str, right: str) -> bool:
    """Return whether two words are written without a blank: ideographs, also next to digits."""
    ideographs = bool(IDEOGRAPH.match(left[-1:])), bool(IDEOGRAPH.match(right[:1]))
    return all(ideographs) or (any(ideographs) and (left[-1:].isdigit() or right[:1].isdigit()))


def is_word(text: str) -> bool:
    """Return whether a text is not empty and not a mark."""
    return bool(text) and not _is_mark(text[0])


def _is_mark(character: str) -> bool:
    """Return whether BERT's tokenizers split a text at a character."""
    ascii_mark = character.isascii() and not character.isalnum() and character.isprintable()
    return ascii_mark or unicodedata.category(character).startswith("P")


def _marks(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the words, repeated marks and operators joined into one, and the index where each starts."""
    marks, starts = list[str](), list[int]()
    for at, word in enumerate(words):
        last = marks[-1] if marks else ""
        if last and (last + word in OPERATORS or (word in RUNS and set(last) == {word})):
            marks[-1] += word
        else:
            marks.append(word)
            starts.append(at)
    return marks, starts


def _sides(mark: str, around: Around, opened: set[str]) -> Sides:
    """Return the sides of a mark; ``opened`` has the marks that wait for their closing one, and is changed."""
    if mark in RULES:
        return RULES[mark](around, opened)
    if IDEOGRAPH.match(mark):
        return BOTH
    kind = unicodedata.category(mark[0])
    if kind in ("Ps", "Pi"):
        return AFTER
    return BEFORE if kind in ("Pe", "Pf", "Po") else APART


def _quote(mark: str) -> Callable[[Around, set[str]], Sides]:
    def sides(_: Around, opened: set[str]) -> Sides:
        opened ^= {mark}
        return AFTER if mark in opened else BEFORE

    return sides


def _apostrophe(around: Around, opened: set[str]) -> Sides:
    before, after, quoted = around.before, around.after, around.second in ("'", "’")
    if "'" in opened and (around.earlier in ("'", "‘") or not around.between_words):
        opened.discard("'")
        return BEFORE
    if around.between_words and before.lower() in ELIDED:
        return BOTH
    if around.between_words and not quoted:
        if after.lower() in CONTRACTED:
            return BOTH
        if "'" not in opened and before[-1:].lower() == "s":  # the dogs' bowl
            return BEFORE
    if "'" in opened or (is_word(before) and not is_word(after) and after not in ("(", "[", "-", "--", "<", ".")):
        opened.discard("'")
        return BEFORE
    opened.add("'")
    return AFTER


def _right_quote(around: Around, opened: set[str]) -> Sides:
    contracted = around.after.lower() in CONTRACTED or around.before.lower() in ELIDED
    if "‘" in opened and not (around.between_words and contracted):
        opened.discard("‘")
        return BEFORE
    return BOTH if around.between_words and (contracted or around.before[-1:].lower() != "s") else BEFORE


def _left_quote(mark: str) -> Callable[[Around, set[str]], Sides]:
    def sides(_: Around, opened: set[str]) -> Sides:
        if mark == "“" and "„" in opened:  # closes German quotation marks, although it opens English ones
            opened.discard("„")
            return BEFORE
        opened.add(mark)
        return AFTER

    return sides


def _dot(around: Around, opened: set[str]) -> Sides:
    before, after = around.before, around.after
    if not before:
        return AFTER
    initials = len(before) == len(after) == 1 and around.between_words
    file = after.lower() in ENDINGS or after.startswith("_")
    version = before[-1:].isdigit() and after.lower() == "x"
    if around.between_digits or initials or file or version:
        return BOTH
    if after.lower() in DOMAINS or before.lower() == "www":
        opened.discard("//")
        return BOTH
    if "//" in opened and around.between_words:  # within the name of a host
        return BOTH
    return BEFORE


def _comma(around: Around, _: set[str]) -> Sides:
    thousands = around.between_digits and len(around.before) <= 3 == len(around.after) and around.after.isdigit()
    return BOTH if thousands else BEFORE


def _colon(around: Around, _: set[str]) -> Sides:
    clock = around.between_digits and len(around.before) <= 2 == len(around.after)
    return BOTH if clock or around.after == "//" else BEFORE


def _slashes(_: Around, opened: set[str]) -> Sides:
    opened.add("//")  # the name of a host follows
    return BOTH


def _slash(_: Around, opened: set[str]) -> Sides:
    opened.discard("//")
    return BOTH


def _hyphen(around: Around, _: set[str]) -> Sides:
    if around.before in BEGINNINGS:
        return AFTER
    if not around.after:
        return BEFORE
    return APART if not is_word(around.before) else BOTH


def _plus(around: Around, _: set[str]) -> Sides:
    sum_of_two = all(len(word) == 1 or word.isdigit() for word in (around.before, around.after))
    return APART if sum_of_two or not is_word(around.before) else BEFORE


def _star(around: Around, opened: set[str]) -> Sides:
    if "*" in opened:
        opened.discard("*")
        return BEFORE
    if around.second == "*":
        opened.add("*")
        return AFTER
    return APART


def _bracket(around: Around, _: set[str]) -> Sides:
    # foo(), option(s), ls(1)
    plural = around.after.lower() in ("s", "es") or (len(around.after) == 1 and around.after.isdigit())
    return BOTH if around.after == ")" or (plural and around.second == ")") else AFTER


def _less(around: Around, opened: set[str]) -> Sides:
    if around.second in (">", "/>", "@") or around.after == "/":
        opened.add("<")
        return AFTER
    return APART


def _greater(_: Around, opened: set[str]) -> Sides:
    sides = BEFORE if "<" in opened else APART
    opened.discard("<")
    return sides


def _percent(around: Around, _: set[str]) -> Sides:
    if around.before[-1:].isdigit():
        return BEFORE
    return AFTER if len(around.after) == 1 and is_word(around.after) else APART


def _at(around: Around, opened: set[str]) -> Sides:
    if around.between_words and around.second in (".", "-"):
        opened.add("//")
        return BOTH
    return AFTER


def _currency(around: Around, _: set[str]) -> Sides:
    return AFTER if around.after[:1].isdigit() or not around.before[-1:].isdigit() else APART


def _ampersand(around: Around, _: set[str]) -> Sides:
    if around.between_words and len(around.after) == 1:  # Q&A, AT&T
        return BOTH
    return AFTER if around.second == ";" else APART


def _always(sides: Sides) -> Callable[[Around, set[str]], Sides]:
    return lambda _, __: sides


RULES: dict[str, Callable[[Around, set[str]], Sides]] = {
    **{mark: _always(BEFORE) for mark in (")", "]", "}", ";", "!", "?", "...", "++", "!!", "??", "?!", "!?")},
    **{mark: _always(AFTER) for mark in ("[", "{", "¿", "¡", "~", "</")},
    **{mark: _always(BOTH) for mark in ("\\", "^", "::")},
    **{mark: _always(APART) for mark in ("=", "|", "—", "**")},
    **{mark: _quote(mark) for mark in ('"', "`", "``", "__")},
    **{mark: _left_quote(mark) for mark in ("„", "‚", "‘", "“")},
    "'": _apostrophe,
    "’": _right_quote,
    ".": _dot,
    ",": _comma,
    ":": _colon,
    "/": _slash,
    "//": _slashes,
    "-": _hyphen,
    "--": lambda around, _: AFTER if around.before in BEGINNINGS else APART,
    "---": lambda around, _: AFTER if around.before in BEGINNINGS else APART,
    "–": lambda around, _: BOTH if around.between_digits else APART,
    "+": _plus,
    "*": _star,
    "_": lambda around, _: (is_word(around.before), is_word(around.after)),
    "(": _bracket,
    "<": _less,
    ">": _greater,
    "%": _percent,
    "#": lambda around, _: BEFORE if around.before.lower() in ("c", "f") else AFTER,  # C#, F#
    "@": _at,
    "$": _currency,
    "€": _currency,
    "£": _currency,
    "¥": _currency,
    "&": _ampersand,
}
