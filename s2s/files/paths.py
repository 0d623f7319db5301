"""Paths that people write: ``~`` stands for the home folder, wherever a path is read."""

import os
from pathlib import Path

from s2s.errors import UserError


class Home:
    """Marks a type's texts as paths, or as several with commas between them."""


def expanded(path: str) -> str:
    """Return a path with ``~`` or ``~name`` at its beginning as the home folder; so each of several between commas.

    The text itself comes back where nothing is expanded. Errors: a UserError where no home folder is known, and for
    what no file can be called.
    """
    _check_name(path)
    found = ",".join(_at_home(part) for part in path.split(",")) if "~" in path else path
    return path if found == path else found


def at_home(path: str | Path) -> Path:
    """Return the same as a Path."""
    _check_name(str(path))
    return Path(_at_home(str(path)))


def _check_name(path: str) -> None:
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UserError(f"{path!r} holds half of a surrogate pair, which no name of a file can") from error
    if b"\0" in encoded:
        raise UserError(f"{path!r} holds a null character, which no name of a file can")


def _at_home(path: str) -> str:
    if not path.lstrip().startswith("~"):
        return path
    try:
        return str(Path(path.strip()).expanduser())
    except RuntimeError as error:
        if path.strip().split("/")[0] == "~":
            raise UserError(f"{path}: this user has no home; name the folder without ~") from error
        return path  # a file whose name begins so
