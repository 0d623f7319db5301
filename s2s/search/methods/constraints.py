"""The constraints that search settings ask for, for one request."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from s2s.config.outside_names import refuse_foreign
from s2s.data.lines import position, read_rows
from s2s.data.rows import given_text
from s2s.errors import UserError
from s2s.search.constraints import AllowedOutputs, Constraint, ForcedPrefixes, NoRepeatedNgram, RepetitionPenalty
from s2s.search.methods.base import Prefix, SearchMethod, SearchRequest
from s2s.search.phrases import MOST, SpelledTexts, whole_words
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.base import Reader, increments
from s2s.vocabulary.spelling import in_word, is_blank

logger = logging.getLogger("s2s")
HOW = "give search.{key}={form} on the command line, or {key}= to generate, if that is what you want"
"""The advice of an error where a run's folder names a file or code."""
OPEN = "*"
"""A star at an end of a text: a word may continue there. A star of the text itself is written with a backslash."""


def constraints_of(settings: SearchMethod, request: SearchRequest) -> list[Constraint]:
    """Return the constraints of a search; raise a UserError for settings that no hypothesis can satisfy."""
    constraints: list[Constraint] = []
    if settings.no_repeat_ngram:
        constraints.append(NoRepeatedNgram(settings.no_repeat_ngram))
    if settings.repetition_penalty != 1:
        constraints.append(RepetitionPenalty(settings.repetition_penalty))
    if any(prefix.tokens for prefix in request.prefixes):
        constraints.append(forced(request))
    if settings.allowed is not None:
        constraints.append(allowed(settings.allowed, request))
    if settings.required or settings.forbidden:
        texts = spelled_texts(request.vocabulary, tuple(settings.required), tuple(settings.forbidden))
        check_room(texts.least(), settings, request)
        check_begun(texts, request)
        constraints.append(texts.rule(request.longest))
    return constraints


def check_room(tokens: float, settings: SearchMethod, request: SearchRequest) -> None:
    """Raise a UserError where the required texts take more tokens than the hypotheses of any source may have."""
    if not request.longest or tokens <= max(request.longest):
        return
    if tokens < float("inf"):
        reason = f"the texts take {tokens:.0f} tokens, but max_length is {max(request.longest)}"
    elif spelled_texts(request.vocabulary, tuple(settings.required), ()).least() < float("inf"):
        reason = "the texts cannot come without one that search.forbidden names; leave one of the two out"
    else:
        reason = "the vocabulary cannot write the texts as whole words; put a star where a word may continue"
    raise UserError(f"search.required: {reason}")


def check_begun(texts: SpelledTexts, request: SearchRequest) -> None:
    """Raise a UserError for a prefix that has a forbidden text, or after which one must come."""
    for prefix in request.prefixes:
        state, come, banned = 0, 0, False
        for id in prefix.tokens:
            column = texts.columns[id]
            banned |= bool(texts.banned[state, column])
            come |= int(texts.gained[state, column])
            state = int(texts.following[state, column])
        if prefix.in_word is not None:  # no word may continue after it, as at the end
            banned |= bool(texts.banned[state, texts.columns[texts.end]])
        if banned or texts.missing[state, come] == float("inf"):
            raise UserError(
                f"search.forbidden: the prefix {request.vocabulary.decode(prefix.tokens)!r} has a text that is "
                "forbidden; leave one of the two out"
            )


def textless(request: SearchRequest, settings: SearchMethod) -> list[int]:
    """Return the tokens that are never written: where words matter, all tokens without text."""
    # A token without text between two words, or two parts of one, would hide where words begin and end.
    if settings.required or settings.forbidden or any(prefix.tokens for prefix in request.prefixes):
        return sorted({*request.vocabulary.never_written, *_textless(request.vocabulary)} - {request.vocabulary.end})
    return request.vocabulary.never_written


def forced(request: SearchRequest) -> ForcedPrefixes:
    """Return the constraint of the prefixes; raise a UserError where one is longer than the search allows."""
    for prefix, limit in zip(request.prefixes, request.longest, strict=True):
        if len(prefix.tokens) > limit:
            raise UserError(f"search.prefix: it has {len(prefix.tokens)} tokens, but max_length is {limit}")
    continuing = [
        None if prefix.in_word is None else _continuing(request.vocabulary, prefix.in_word)
        for prefix in request.prefixes
    ]
    return ForcedPrefixes([prefix.tokens for prefix in request.prefixes], continuing)


def prefix_of(text: str, vocabulary: Vocabulary, key: str = "search.prefix") -> Prefix:
    """Return the prefix of a text: whole words, unless a star at its end lets the last one continue.

    After ``the cap`` comes a new word, a mark or the end, and after ``the cap*`` also ``tain``. After writing without
    blanks, such as Chinese, anything may come. Blanks at the end are ignored. A UserError begins with ``key``.
    """
    text, _, is_open = stars(text, at_start=False)
    if not text.strip():
        return Prefix()
    tokens = written(text, vocabulary, key)
    return Prefix(tokens, None if is_open else in_word(text.rstrip()[-1]))


def stars(text: str, at_start: bool = True) -> tuple[str, bool, bool]:
    """Return a text without the stars at its ends, and whether it has one at its start and at its end."""
    # True counts as 1 in the slices below: they cut off a star or a backslash where there is one.
    opens = at_start and text.startswith(OPEN) and len(text) > 1
    text = text[opens:]
    closes = text.endswith(OPEN) and not text.endswith(f"\\{OPEN}") and len(text) > 1
    text = text[: len(text) - closes]
    text = text[text.startswith(f"\\{OPEN}") :]
    return (f"{text[:-2]}{OPEN}" if text.endswith(f"\\{OPEN}") else text), opens, closes


def written(text: str, vocabulary: Vocabulary, key: str) -> list[int]:
    """Return the ids of a text; raise a UserError where it is blank or the vocabulary cannot write all of it."""
    ids = vocabulary.encode(given_text(text, key))
    if is_blank(text) or not ids or not set(ids).isdisjoint(_textless(vocabulary)):
        reason = "is blank" if is_blank(text) else "has characters that the vocabulary cannot write"
        raise UserError(f"{key}: {text!r} {reason}")
    return ids


@lru_cache(maxsize=8)
def _continuing(vocabulary: Vocabulary, ends_in_word: bool) -> list[bool]:
    return vocabulary.continuing(ends_in_word)


@lru_cache(maxsize=8)
def _textless(vocabulary: Vocabulary) -> frozenset[int]:
    return frozenset(id for id, spelled in enumerate(vocabulary.spell()) if not spelled)


class Allowed(NamedTuple):
    """The outputs of a file: their prefix tree, the line of each, and the length of the longest and where it is."""

    tree: AllowedOutputs
    lines: dict[tuple[int, ...], str]
    longest: int
    location: str
    vocabulary: Vocabulary

    def decode(self, ids: Sequence[int]) -> str:
        """Return the line exactly as it is in the file."""
        return self.lines.get(tuple(ids)) or self.vocabulary.decode(ids)

    def settled(self, ids: Sequence[int]) -> str:
        """Return the common beginning of all lines whose tokens begin with the ids, as far as the ids write it."""
        begun = tuple(ids)
        lines = [line for tokens, line in self.lines.items() if tokens[: len(begun)] == begun]
        # A line is not certain before its last token: other constraints may leave no token that continues it.
        columns = zip(self.vocabulary.settled(ids), *lines, strict=False)
        return "".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))

    def shares(self, ids: Sequence[int]) -> list[str]:
        return increments(self, ids)


def allowed(path: str, request: SearchRequest) -> AllowedOutputs:
    """Return the constraint of a file's outputs; raise a UserError where one is longer than the search allows."""
    outputs = allowed_lines(path, request.vocabulary)
    if request.longest and outputs.longest > min(request.longest):
        longest = f"{outputs.location} has {outputs.longest} tokens"
        raise UserError(f"search.allowed: {longest}, but max_length is {min(request.longest)}")
    return outputs.tree


def reader(settings: SearchMethod, vocabulary: Vocabulary) -> Reader:
    """Return the reader of a search's ids: the vocabulary, or the file of allowed lines.

    Raises a UserError for a file that only the run's folder names.
    """
    refuse_foreign(settings, "search", HOW)
    return vocabulary if settings.allowed is None else allowed_lines(settings.allowed, vocabulary)


def allowed_lines(path: str, vocabulary: Vocabulary) -> Allowed:
    """Return the outputs of a file, which is read again after it has changed."""
    status = Path(path).stat() if Path(path).exists() else None
    return _read_allowed(path, status and (status.st_mtime_ns, status.st_size), vocabulary)


@lru_cache(maxsize=4)
def _read_allowed(path: str, status: object, vocabulary: Vocabulary) -> Allowed:  # noqa: ARG001
    # ``status`` is only a part of the cache's key: a file that has changed has another one.
    lines, rows = read_rows(path)
    if rows is not None:
        raise UserError(f"search.allowed: {path} has objects; it must have plain lines, one for each output")
    blank = next((at for at, line in enumerate(lines) if is_blank(line)), None)
    if blank is not None or not lines:
        raise UserError(f"search.allowed: {position(path, blank or 0)}: no output")
    outputs, first = vocabulary.encode_all(lines), dict[tuple[int, ...], int]()
    textless, repeated = _textless(vocabulary), list[tuple[int, int]]()
    for at, ids in enumerate(outputs):
        if not ids or not textless.isdisjoint(ids):
            written(lines[at], vocabulary, f"search.allowed: {position(path, at)}")
        if lines[first.setdefault(tuple(ids), at)] != lines[at]:
            repeated.append((first[tuple(ids)], at))
    if repeated:
        before, at = repeated[0]
        logger.warning(
            "search.allowed: %d lines of %s are the same to the vocabulary as an earlier one, which is written instead "
            "(first: line %d as line %d)",
            *(len(repeated), path, at + 1, before + 1),
        )
    longest = max(range(len(outputs)), key=lambda at: len(outputs[at]))
    texts = {ids: lines[at] for ids, at in first.items()}
    return Allowed(
        AllowedOutputs(outputs, vocabulary.end), texts, len(outputs[longest]), position(path, longest), vocabulary
    )


@lru_cache(maxsize=1)  # a server would otherwise keep the large tables of several requests
def spelled_texts(vocabulary: Vocabulary, required: Sequence[str], forbidden: Sequence[str]) -> SpelledTexts:
    """Return the automaton of required and forbidden texts for a vocabulary's spelling."""
    if len(required) > MOST:
        raise UserError(f"search.required: {len(required)} texts are more than {MOST}")
    spelled = vocabulary.spell()
    needed, banned = (
        [pattern(f"search.{key}", text, vocabulary, spelled) for text in texts]
        for key, texts in (("required", required), ("forbidden", forbidden))
    )
    return SpelledTexts(needed, banned, spelled, vocabulary.end)


def pattern(key: str, text: str, vocabulary: Vocabulary, spelled: Sequence[bytes]) -> list[int]:
    """Return the symbols of a text without blanks at its ends: whole words, except at an end with a star."""
    text, opens, closes = stars(text)
    ids = written(text, vocabulary, key)
    return whole_words(b"".join(spelled[id] for id in ids).strip(), not opens, not closes)
