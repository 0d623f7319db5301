"""Files and folders that appear whole or not at all, even after a kill or a power failure."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from s2s.errors import UserError

DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?:self|\d+)(?:/task/\d+)?/fd")
"""Folders whose entries are open files. They look like links, but opening one starts at the file's beginning again."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text, whole or not at all; see ``open_output``."""
    with open_output(path) as file:
        file.write(text.encode())


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Turn errors of writing into a UserError with the file's name, which the system leaves out ("No space left")."""
    try:
        yield
    except BrokenPipeError:  # the reader has left, which is no fault: the command ends with an exit code of its own
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces the one at ``path`` when the block ends, whole or not at all.

    Links are followed; mode and owner of the old file stay. A device, a pipe or a descriptor such as /dev/stdout cannot
    be replaced and is written to directly. Errors: a UserError with the file's name; the old content is then untouched.
    """
    with naming(path):
        if is_stream(path):
            with open_stream(path) as file:
                yield file
            return
        target = target_of(path)
        partial = _partial_of(target)
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            take_place(partial, target)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def target_of(path: Path) -> Path:
    """Return the file that a path leads to, links followed; it need not exist."""
    return Path(os.path.realpath(path))


def _partial_of(target: Path) -> Path:
    """Return a random name next to a target: FILE.partial could be somebody's file, or that of another writer."""
    return target.with_name(f".s2s-{secrets.token_hex(4)}.partial")


def take_place(partial: Path, target: Path) -> None:
    """Rename a written file to its target, with the target's mode and, where this process may set it, its owner."""
    with suppress(FileNotFoundError):
        before, now = target.stat(), partial.stat()
        if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            with suppress(OSError):
                os.chown(partial, before.st_uid, before.st_gid)
        partial.chmod(stat.S_IMODE(before.st_mode))
    if sys.platform == "win32" and target.is_dir():
        target.rmdir()  # Windows renames nothing onto a folder, not even onto an empty one
    partial.replace(target)
    sync_folder(target.parent)


def is_stream(path: Path) -> bool:
    """Return whether a path must be written to directly, because renaming a file onto it would destroy it."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def open_stream(path: Path) -> BinaryIO:
    """Open a path of ``is_stream`` for writing; what is there already stays."""
    descriptor = _descriptor(path)
    if descriptor is not None and os.path.realpath(descriptor.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
        # A duplicate shares its position in the file with everybody who writes to this descriptor.
        return os.fdopen(os.dup(int(descriptor.name)), "wb")
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb")


def _descriptor(path: Path) -> Path | None:
    """Return the entry among a process's open files that a path leads to, as /dev/stdout does."""
    link = str(path)
    for _ in range(40):  # Linux gives up after 40 links, too
        folder, name = os.path.split(os.path.abspath(link))
        if name.isdigit() and DESCRIPTORS.fullmatch(os.path.realpath(folder)):
            return Path(folder, name)
        if not os.path.islink(link):
            return None
        link = os.path.join(folder, os.readlink(link))
    return None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which gets its name when the block ends; raises ``UserError`` if the name is taken."""
    check_new_folder(folder)
    target = target_of(folder)
    with naming(folder), _filled_folder(_partial_of(target), target) as partial:
        yield partial


@contextmanager
def replaced_folder(folder: Path, begun: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which replaces the folder of that name when the block ends; for one writer at a time.

    With ``begun`` it is there already, from ``begin_folder``, and has files.
    """
    partial = folder.with_suffix(".partial") if begun else begin_folder(folder)
    with _filled_folder(partial, folder, replaces=True):
        yield partial


def begin_folder(folder: Path) -> Path:
    """Make the empty folder that will replace a folder."""
    # One fixed name: what a killed process left is removed when the same folder is written again.
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


@contextmanager
def _filled_folder(partial: Path, target: Path, replaces: bool = False) -> Iterator[Path]:
    try:
        partial.mkdir(parents=True, exist_ok=replaces)
        yield partial
        sync_files(partial)
        if replaces:  # only now: if the disk were full, the old folder would be the only whole one
            shutil.rmtree(target, ignore_errors=True)
        take_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that ``new_folder`` could not make: it has files, or the folder above cannot be written to."""
    with naming(folder):
        if os.path.lexists(target_of(folder)) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: exists already; name a new folder or an empty one")
        above = next(parent for parent in target_of(folder).parents if os.path.lexists(parent))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "cannot be written to" if above.is_dir() else "is not a folder"
        raise UserError(
            f"{folder}: cannot be written ({above} {reason}, so it cannot be made there); name another place"
        )


UNSYNCED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM)
"""Errors of file systems that sync files, but not folders (CIFS and some FUSE ones)."""


def sync_files(folder: Path) -> None:
    """Flush all files and folders below a folder, and the folder itself, to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power failure, where the disk supports it."""
    if sys.platform == "win32":  # it cannot open folders, and its file system logs renames by itself
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
