"""Errors that a user can mend: one clear message, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something in the user's files, settings or machine is wrong; the message says what, where and what would do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The ending of an error message: ``; did you mean 'x'?`` or the list of valid ``choices``."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing: for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
