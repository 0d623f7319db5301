"""Files that are there whole or not at all, and where those lie that are slow to make."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from s2s.errors import UserError
from s2s.files.paths import at_home


def cache_folder(asked: str | None = None) -> Path:
    """The folder that keeps what is slow to make: the one asked for, $S2S_CACHE or ~/.cache/s2s; it need not exist."""
    if chosen := asked or os.environ.get("S2S_CACHE"):
        return at_home(chosen)
    try:
        return at_home("~/.cache/s2s")
    except UserError:  # a user without a home, as containers have
        return _private_folder()


def _private_folder() -> Path:
    """Return a folder for temporary files that nobody else can write to: libraries are loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"s2s-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="s2s-"))


DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?:self|\d+)(?:/task/\d+)?/fd")
"""Folders whose entries are open files. They look like links; opening one again starts at the file's beginning."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text: whole or not at all, also after a power failure. See ``open_output``."""
    with open_output(path) as file:
        file.write(text.encode())


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Turn the system's errors of writing, which name no file ("No space left on device"), into a UserError that does.

    A pipe without a reader stays as it is: the command knows what to do.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of the one at ``path`` when all is written: whole or not at all.

    A link stays, and the file that it leads to is written; mode and owner stay. What is no regular file (a device, a
    pipe, a descriptor such as /dev/stdout) cannot be replaced: it is written to directly.
    Errors: a UserError that names the file where it cannot be written; the content from before is whole then.
    """
    with naming(path):
        if is_stream(path):
            with open_stream(path) as file:
                yield file
            return
        target = target_of(path)
        # A name of its own: FILE.partial could be somebody's file, or another process's that writes the same one.
        partial = target.with_name(f".s2s-{secrets.token_hex(4)}.partial")
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


def take_place(partial: Path, target: Path) -> None:
    """Give a written file its name. It keeps the mode and, where this process may, the owner of the one it replaces."""
    with suppress(FileNotFoundError):
        before, now = target.stat(), partial.stat()
        if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
            with suppress(OSError):
                os.chown(partial, before.st_uid, before.st_gid)
        partial.chmod(stat.S_IMODE(before.st_mode))
    if sys.platform == "win32" and target.is_dir():
        target.rmdir()  # Windows puts nothing in the place of a folder, not even of an empty one
    partial.replace(target)
    sync_folder(target.parent)


def is_stream(path: Path) -> bool:
    """Return whether a path is written to as it is, because renaming a file onto it would destroy it."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def open_stream(path: Path) -> BinaryIO:
    """Open such a path; what is written goes after what is there."""
    descriptor = _descriptor(path)
    if descriptor is not None and os.path.realpath(descriptor.parent) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
        return os.fdopen(os.dup(int(descriptor.name)), "wb")  # shares the place in the file with who else writes there
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb")


def _descriptor(path: Path) -> Path | None:
    """Return the entry among a process's open files that a path leads to, as /dev/stdout does."""
    place = str(path)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(os.path.abspath(place))
        if name.isdigit() and DESCRIPTORS.fullmatch(os.path.realpath(folder)):
            return Path(folder, name)
        if not os.path.islink(place):
            return None
        place = os.path.join(folder, os.readlink(place))
    return None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name when all is written; raises ``UserError`` where something is already."""
    check_new_folder(folder)
    target = target_of(folder)
    partial = target.with_name(f".s2s-{secrets.token_hex(4)}.partial")
    try:
        with naming(folder):
            partial.mkdir(parents=True)
            yield partial
            sync_files(partial)
            take_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that ``new_folder`` could not make: something is there, or it lies below what is no folder."""
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
"""Errors of disks that sync files, but not folders (CIFS and some of FUSE among them)."""


def sync_files(folder: Path) -> None:
    """Put all files below a folder on the disk, and the folders with them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system and the disk can: a rename is then there for good."""
    if sys.platform == "win32":  # which opens no folders; its file system keeps a log of renames
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
