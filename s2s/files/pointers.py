"""Pointers to folders: a small text file such as ``best`` that holds the name of a folder next to it.

Symbolic links would do, but not every file system and copy keeps them. Runs of earlier versions have links, and a copy
of such a run (``cp -rL``, ``zip``) may have a whole folder in a link's place, or nothing; all of these are read.
"""

import re
import shutil
from pathlib import Path

from s2s.errors import UserError
from s2s.files.atomic import write_atomically

NAME = re.compile(r"[a-z]+-\d{8,}", re.ASCII)
LONGEST = 100
"""Bytes of a pointer that are read: a file of that name could be of any size."""


def is_copy(pointer: Path) -> bool:
    """Return whether a whole folder is in a pointer's place, as after a copy that followed links."""
    return pointer.is_dir() and not pointer.is_symlink()


def named(pointer: Path) -> Path | None:
    """Return the folder that a pointer names, the pointer itself if it is a folder, or None if there is no pointer.

    Errors: a UserError for a pointer to no folder.
    """
    if is_copy(pointer):
        return pointer
    name = _content(pointer)
    if name is None:
        return None
    folder = pointer.with_name(name) if NAME.fullmatch(name) else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{pointer}: names {name!r}, and no checkpoint next to it has that name; remove this file, and the newest "
            f"whole checkpoint tells which one it is"
        )
    return folder


def _content(pointer: Path) -> str | None:
    if pointer.is_symlink():
        return pointer.readlink().name
    try:
        with pointer.open("rb") as file:
            return file.read(LONGEST).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{pointer}: cannot be read ({error.strerror})") from error


def point(pointer: Path, name: str) -> None:
    """Make a pointer name a folder next to it, atomically."""
    # A link or a folder in the pointer's place is moved away first. A run that is killed in between has no pointer,
    # which is no error: the newest checkpoint is found by its step, too.
    aside = pointer.with_name(pointer.name + ".old")
    _remove(aside)
    if pointer.is_symlink() or pointer.is_dir():
        pointer.rename(aside)
    write_atomically(pointer, name + "\n")
    _remove(aside)


def _remove(path: Path) -> None:
    if is_copy(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
