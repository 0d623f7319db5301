"""Names for folders: a small text file such as ``best`` that holds the name of a folder beside it.

Symbolic links would do, but not every disk and copy keeps them. Runs of earlier versions have them, and a copy of such
a run may have a whole folder in a link's place (``cp -rL``, ``zip``) or nothing; all of these are read.
"""

import re
import shutil
from pathlib import Path

from s2s.errors import UserError
from s2s.files.atomic import write_atomically

NAME = re.compile(r"[a-z]+-\d{8,}", re.ASCII)
MOST = 100
"""Bytes of a pointer that are read: whatever has its name may be any file."""


def is_copy(pointer: Path) -> bool:
    """Return whether a whole folder is in a pointer's place: the copy of a link."""
    return pointer.is_dir() and not pointer.is_symlink()


def named(pointer: Path) -> Path | None:
    """Return the folder that a pointer names, the pointer itself if it is a folder, or None if there is no pointer.

    Errors: a UserError for a pointer that names no folder beside it.
    """
    if is_copy(pointer):
        return pointer
    name = _content(pointer)
    if name is None:
        return None
    folder = pointer.with_name(name) if NAME.fullmatch(name) else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{pointer}: names {name!r}, and no checkpoint beside it has that name; remove this file, and the newest "
            f"whole checkpoint tells which one it is"
        )
    return folder


def _content(pointer: Path) -> str | None:
    if pointer.is_symlink():
        return pointer.readlink().name
    try:
        with pointer.open("rb") as file:
            return file.read(MOST).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{pointer}: cannot be read ({error.strerror})") from error


def point(pointer: Path, name: str) -> None:
    """Let a pointer name a folder beside it, atomically.

    A link or a folder in its place makes way first: killed in between, the run has no such pointer, which is read too.
    """
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
