"""Paths that people write, with ``~`` for the home folder, and the folder for cached files."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from s2s.errors import UserError


class Home:
    """Annotation of settings whose text is a path, or several paths with commas between them."""


def expanded(path: str) -> str:
    """Return a path as this system spells it, with ``~`` or ``~name`` at its beginning as the home folder.

    In a list with commas between its paths, each is expanded. Errors: a UserError where the home folder is unknown, and
    for what no file can be called.
    """
    spelled = _native(path)
    if "~" in spelled:
        spelled = ",".join(_at_home(part) for part in spelled.split(","))
    # The same object where nothing changes: a text of a foreign recipe bears a mark that a copy would lose.
    return path if spelled == path else spelled


def at_home(path: str | Path) -> Path:
    """Return a single path, expanded in the same way, as a Path."""
    return Path(_at_home(_native(str(path))))


def _native(path: str) -> str:
    """Return the spelling of a name that Python gives the same file when it lists a folder or reads an argument.

    Where the locale knows no such character (é in LC_ALL=C), Python spells the bytes of names as halves of surrogate
    pairs, while recipes spell the character; the bytes are then taken to be UTF-8, as on every file system of today.
    The other way round, a recipe that was saved in such a locale gets its characters back in any other.
    """
    try:
        try:
            encoded = os.fsencode(path)
        except UnicodeEncodeError:
            encoded = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise UserError(f"{path!r} holds half of a surrogate pair, which no name of a file can") from error
    if b"\0" in encoded:
        raise UserError(f"{path!r} holds a null character, which no name of a file can")
    return os.fsdecode(encoded)


def readable(text: str) -> str:
    r"""Return a text with names of files in it so that UTF-8 can hold it, for results: see ``_native``.

    Bytes of a name that are no UTF-8 are shown as ``\udcff``, which JSON reads as the name again.
    """
    with suppress(UnicodeEncodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _at_home(path: str) -> str:
    if not path.lstrip().startswith("~"):
        return path
    try:
        return str(Path(path.strip()).expanduser())
    except RuntimeError as error:
        if path.strip().split("/")[0] == "~":
            raise UserError(f"{path}: this user has no home; name the folder without ~") from error
        return path  # ``~name`` with no user of that name is the name of a file


def cache_folder(folder: str | None = None) -> Path:
    """Return the folder for what is slow to make: ``folder``, else $S2S_CACHE, else ~/.cache/s2s; it may not exist."""
    if chosen := folder or os.environ.get("S2S_CACHE"):
        return at_home(chosen)
    try:
        return at_home("~/.cache/s2s")
    except UserError:  # a user without a home, as in containers
        return _private_folder()


def _private_folder() -> Path:
    """Return a folder among temporary files that nobody else can write to, because libraries are loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"s2s-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="s2s-"))
