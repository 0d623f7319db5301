"""The constraints that search settings ask for, for one job."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from s2s.data.lines import place, read_rows
from s2s.errors import UserError
from s2s.search.automata import AllowedOutputs
from s2s.search.constraints import Constraint, ForcedPrefixes, NoRepeatedNgram, RepetitionPenalty
from s2s.search.method import Job, SearchMethod
from s2s.search.texts import MOST, SpelledTexts
from s2s.vocabulary import Vocabulary


def constraints_of(settings: SearchMethod, job: Job) -> list[Constraint]:
    """What the hypotheses of a job's sources may not do; a ``UserError`` for what none of them can keep to."""
    found: list[Constraint] = []
    if settings.no_repeat_ngram:
        found.append(NoRepeatedNgram(settings.no_repeat_ngram))
    if settings.repetition_penalty != 1:
        found.append(RepetitionPenalty(settings.repetition_penalty))
    if any(job.prefixes):
        found.append(forced(job))
    if settings.allowed is not None:
        found.append(allowed(settings.allowed, job))
    if settings.required or settings.forbidden:
        texts = spelled_texts(job.vocabulary, tuple(settings.required), tuple(settings.forbidden))
        check_room("required", "the texts take", texts.least(), job)
        found.append(texts.rule(job.longest))
    return found


def check_room(key: str, what: str, tokens: float, job: Job) -> None:
    """A ``UserError`` where so many tokens are more than any of the sources may have."""
    if job.longest and tokens > max(job.longest):
        least = f"{tokens:.0f} tokens" if tokens < float("inf") else "more than can be had with what is forbidden"
        raise UserError(f"search.{key}: {what} {least}, but max_length is {max(job.longest)}")


def forced(job: Job) -> ForcedPrefixes:
    """Each source's own beginning."""
    for prefix, limit in zip(job.prefixes, job.longest, strict=True):
        if len(prefix) > limit:
            raise UserError(f"search.prefix: it has {len(prefix)} tokens, but max_length is {limit}")
    return ForcedPrefixes(job.prefixes)


def allowed(path: str, job: Job) -> AllowedOutputs:
    """The outputs of a file."""
    status = Path(path).stat() if Path(path).exists() else None
    outputs, longest, line = output_tree(path, status and (status.st_mtime_ns, status.st_size), job.vocabulary)
    if job.longest and longest > min(job.longest):
        raise UserError(f"search.allowed: {line} has {longest} tokens, but max_length is {min(job.longest)}")
    return outputs


@lru_cache(maxsize=4)
def output_tree(path: str, status: object, vocabulary: Vocabulary) -> tuple[AllowedOutputs, int, str]:  # noqa: ARG001
    """The prefix tree of a file's lines, their greatest number of tokens, and the line that has it."""
    lines, rows = read_rows(path)
    if rows is not None:
        raise UserError(f"search.allowed: {path} has objects; plain lines are wanted, an output each")
    blank = next((at for at, line in enumerate(lines) if not line.strip()), None)
    if blank is not None or not lines:
        raise UserError(f"search.allowed: {place(path, blank or 0)}: no output")
    outputs = vocabulary.encode_all(lines)
    longest = max(range(len(outputs)), key=lambda at: len(outputs[at]))
    return AllowedOutputs(outputs, vocabulary.end), len(outputs[longest]), place(path, longest)


@lru_cache(maxsize=4)
def spelled_texts(vocabulary: Vocabulary, required: Sequence[str], forbidden: Sequence[str]) -> SpelledTexts:
    """The automaton of texts, as the vocabulary spells them."""
    if len(required) > MOST:
        raise UserError(f"search.required: {len(required)} texts are more than {MOST}")
    spelled = vocabulary.spell()
    needed, banned = (
        [pattern(key, text, vocabulary, spelled) for text in texts]
        for key, texts in (("required", required), ("forbidden", forbidden))
    )
    return SpelledTexts(needed, banned, spelled, vocabulary.end)


def pattern(key: str, text: str, vocabulary: Vocabulary, spelled: Sequence[bytes]) -> bytes:
    """The bytes of a text, without a blank at either end."""
    ids = vocabulary.encode(text)
    found = b"".join(spelled[id] for id in ids).strip()
    if not found or not all(spelled[id] for id in ids):
        reason = "has characters that the vocabulary cannot write" if ids else "is blank"
        raise UserError(f"search.{key}: '{text}' {reason}")
    return found
