"""The constraints that search settings ask for, for one job."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from s2s.config.outside_names import refuse_foreign
from s2s.data.lines import place, read_rows
from s2s.data.rows import given_text
from s2s.errors import UserError
from s2s.search.automata import AllowedOutputs
from s2s.search.constraints import Constraint, ForcedPrefixes, NoRepeatedNgram, RepetitionPenalty
from s2s.search.methods.base import Prefix, SearchMethod, SearchRequest
from s2s.search.phrases import MOST, SpelledTexts, whole_words
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.base import Reader, increments
from s2s.vocabulary.boundaries import in_word, is_blank

logger = logging.getLogger("s2s")
HOW = "give search.{key}={form} on the command line, or {key}= to generate, if that is what you want"
"""What to do where a folder names a file or code."""
OPEN = "*"
"""At an end of a text: a word may go on there. A star that belongs to the text is written with a backslash."""


def constraints_of(settings: SearchMethod, job: SearchRequest) -> list[Constraint]:
    """What the hypotheses of a job's sources may not do; a ``UserError`` for what none of them can keep to."""
    found: list[Constraint] = []
    if settings.no_repeat_ngram:
        found.append(NoRepeatedNgram(settings.no_repeat_ngram))
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenalty(settings.repetition_penalty))
    if any(prefix.tokens for prefix in job.prefixes):
        found.append(forced(job))
    if settings.allowed is not None:
        found.append(allowed(settings.allowed, job))
    if settings.required or settings.forbidden:
        texts = spelled_texts(job.vocabulary, tuple(settings.required), tuple(settings.forbidden))
        check_room(texts.least(), settings, job)
        check_begun(texts, job)
        found.append(texts.rule(job.longest))
    return found


def check_room(tokens: float, settings: SearchMethod, job: SearchRequest) -> None:
    """A ``UserError`` where the required texts take more tokens than any of the sources may have."""
    if not job.longest or tokens <= max(job.longest):
        return
    if tokens < float("inf"):
        reason = f"the texts take {tokens:.0f} tokens, but max_length is {max(job.longest)}"
    elif spelled_texts(job.vocabulary, tuple(settings.required), ()).least() < float("inf"):
        reason = "the texts cannot come without one that search.forbidden names; leave one of the two out"
    else:
        reason = "the vocabulary cannot write the texts as whole words; put a star where a word may go on"
    raise UserError(f"search.required: {reason}")


def check_begun(texts: SpelledTexts, job: SearchRequest) -> None:
    """A ``UserError`` for a prefix that has a forbidden text already, or after which one must come."""
    for prefix in job.prefixes:
        place, come, banned = 0, 0, False
        for id in prefix.tokens:
            column = texts.columns[id]
            banned |= bool(texts.banned[place, column])
            come |= int(texts.gained[place, column])
            place = int(texts.following[place, column])
        if prefix.in_word is not None:  # no word goes on after it, as at the end
            banned |= bool(texts.banned[place, texts.columns[texts.end]])
        if banned or texts.missing[place, come] == float("inf"):
            raise UserError(
                f"search.forbidden: the prefix {job.vocabulary.decode(prefix.tokens)!r} has a text that is forbidden; "
                "leave one of the two out"
            )


def textless(job: SearchRequest, settings: SearchMethod) -> list[int]:
    """Return the tokens that are never written: all without text where a word may not go on after them."""
    if settings.required or settings.forbidden or any(prefix.tokens for prefix in job.prefixes):
        return sorted({*job.vocabulary.never_written, *_textless(job.vocabulary)} - {job.vocabulary.end})
    return job.vocabulary.never_written


def forced(job: SearchRequest) -> ForcedPrefixes:
    """Each source's own beginning."""
    for prefix, limit in zip(job.prefixes, job.longest, strict=True):
        if len(prefix.tokens) > limit:
            raise UserError(f"search.prefix: it has {len(prefix.tokens)} tokens, but max_length is {limit}")
    continuing = [
        None if prefix.in_word is None else _continuing(job.vocabulary, prefix.in_word) for prefix in job.prefixes
    ]
    return ForcedPrefixes([prefix.tokens for prefix in job.prefixes], continuing)


def prefix_of(text: str, vocabulary: Vocabulary, key: str = "search.prefix") -> Prefix:
    """Return the prefix that a text means: whole words, unless a star at its end lets the last one go on.

    After ``the cap`` comes a new word, a mark or the end, and after ``the cap*`` also ``tain``. Writing without blanks
    goes on with anything. Blanks at the end say nothing. Errors: a UserError that begins with ``key``.
    """
    text, _, is_open = stars(text, at_start=False)
    if not text.strip():
        return Prefix()
    tokens = written(text, vocabulary, key)
    return Prefix(tokens, None if is_open else in_word(text.rstrip()[-1]))


def stars(text: str, at_start: bool = True) -> tuple[str, bool, bool]:
    """Return a text without the stars at its ends, and whether it has one at its start and at its end."""
    opens = at_start and text.startswith(OPEN) and len(text) > 1
    text = text[opens:]
    closes = text.endswith(OPEN) and not text.endswith(f"\\{OPEN}") and len(text) > 1
    text = text[: len(text) - closes]
    text = text[text.startswith(f"\\{OPEN}") :]
    return (f"{text[:-2]}{OPEN}" if text.endswith(f"\\{OPEN}") else text), opens, closes


def written(text: str, vocabulary: Vocabulary, key: str) -> list[int]:
    """Return the ids of a text that is to be written; a ``UserError`` where the vocabulary cannot write all of it."""
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
    """The outputs of a file: their prefix tree, the line of each of them, and the longest one's tokens and place."""

    tree: AllowedOutputs
    lines: dict[tuple[int, ...], str]
    longest: int
    place: str
    vocabulary: Vocabulary

    def decode(self, ids: Sequence[int]) -> str:
        """Return the line, just as the file has it."""
        return self.lines.get(tuple(ids)) or self.vocabulary.decode(ids)

    def settled(self, ids: Sequence[int]) -> str:
        """Return the beginning that all lines share whose tokens begin with the ids."""
        begun = tuple(ids)
        lines = [line for tokens, line in self.lines.items() if tokens[: len(begun)] == begun]
        same = takewhile(lambda column: len(set(column)) == 1, zip(*lines, strict=False))
        return "".join(column[0] for column in same)

    def shares(self, ids: Sequence[int]) -> list[str]:
        """Return what each id makes certain of the line."""
        return increments(self, ids)


def allowed(path: str, job: SearchRequest) -> AllowedOutputs:
    """The outputs of a file."""
    outputs = allowed_lines(path, job.vocabulary)
    if job.longest and outputs.longest > min(job.longest):
        least = f"{outputs.place} has {outputs.longest} tokens"
        raise UserError(f"search.allowed: {least}, but max_length is {min(job.longest)}")
    return outputs.tree


def reader(settings: SearchMethod, vocabulary: Vocabulary) -> Reader:
    """Return what makes texts of found ids: the vocabulary, or the file whose lines alone are allowed.

    Errors: a UserError for a file that only the run's folder names.
    """
    refuse_foreign(settings, "search", HOW)
    return vocabulary if settings.allowed is None else allowed_lines(settings.allowed, vocabulary)


def allowed_lines(path: str, vocabulary: Vocabulary) -> Allowed:
    """Return the outputs of a file, read again where it has changed."""
    status = Path(path).stat() if Path(path).exists() else None
    return _read_allowed(path, status and (status.st_mtime_ns, status.st_size), vocabulary)


@lru_cache(maxsize=4)
def _read_allowed(path: str, status: object, vocabulary: Vocabulary) -> Allowed:  # noqa: ARG001
    lines, rows = read_rows(path)
    if rows is not None:
        raise UserError(f"search.allowed: {path} has objects; plain lines are wanted, an output each")
    blank = next((at for at, line in enumerate(lines) if is_blank(line)), None)
    if blank is not None or not lines:
        raise UserError(f"search.allowed: {place(path, blank or 0)}: no output")
    outputs, first = vocabulary.encode_all(lines), dict[tuple[int, ...], int]()
    textless, again = _textless(vocabulary), list[tuple[int, int]]()
    for at, ids in enumerate(outputs):
        if not ids or not textless.isdisjoint(ids):
            written(lines[at], vocabulary, f"search.allowed: {place(path, at)}")
        if lines[first.setdefault(tuple(ids), at)] != lines[at]:
            again.append((first[tuple(ids)], at))
    if again:
        before, at = again[0]
        logger.warning(
            "search.allowed: %d lines of %s are the same to the vocabulary as an earlier one, which is written instead "
            "(first: line %d as line %d)",
            *(len(again), path, at + 1, before + 1),
        )
    longest = max(range(len(outputs)), key=lambda at: len(outputs[at]))
    texts = {ids: lines[at] for ids, at in first.items()}
    return Allowed(
        AllowedOutputs(outputs, vocabulary.end), texts, len(outputs[longest]), place(path, longest), vocabulary
    )


@lru_cache(maxsize=1)  # its tables are large: a server would keep those of several requests
def spelled_texts(vocabulary: Vocabulary, required: Sequence[str], forbidden: Sequence[str]) -> SpelledTexts:
    """The automaton of texts, as the vocabulary spells them."""
    if len(required) > MOST:
        raise UserError(f"search.required: {len(required)} texts are more than {MOST}")
    spelled = vocabulary.spell()
    needed, banned = (
        [pattern(f"search.{key}", text, vocabulary, spelled) for text in texts]
        for key, texts in (("required", required), ("forbidden", forbidden))
    )
    return SpelledTexts(needed, banned, spelled, vocabulary.end)


def pattern(key: str, text: str, vocabulary: Vocabulary, spelled: Sequence[bytes]) -> list[int]:
    """The symbols of a text, without a blank at either end: whole words, but where it has a star."""
    text, opens, closes = stars(text)
    ids = written(text, vocabulary, key)
    return whole_words(b"".join(spelled[id] for id in ids).strip(), not opens, not closes)
