"""Where commands write: refused, before any work is done, where the output is an input or cannot be written."""

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from s2s.console.terminal import is_closed
from s2s.errors import UserError
from s2s.files.atomic import check_new_folder, is_stream, target_of

RUN_FILES = (
    *("recipe.yaml", "run.json", "log.jsonl", "curves.svg", ".lock", "vocabulary", "checkpoints", "trackers"),
    *("weights.safetensors", "manifest.json"),
)
"""What a run's folder, or an exported one, consists of. Other files there are the user's, outputs among them."""

Input = str | Path | None


def check_output(key: str, name: str | Path, inputs: Iterable[Input], beside: Iterable[str] = ()) -> None:
    """Refuse an output file that is one of the inputs, by whatever name or link, or that cannot be written.

    ``inputs`` are the files and folders that the command reads (None: not given; ``-``: standard input, as an output
    standard output); ``beside`` are endings of further files that are written beside it. Errors: a UserError that
    begins with the key.
    """
    given = [entry for entry in inputs if entry not in (None, "")]
    try:
        _check_place(key, str(name))
        for ending in ("", *beside) if str(name) != "-" else ("",):
            _check_identity(key, f"{name}{ending}", given)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a NUL
        raise UserError(f"{key}: {name}: {getattr(error, 'strerror', None) or error}") from error


def check_output_folder(key: str, folder: Path, inputs: Iterable[Input]) -> None:
    """Refuse a new folder that cannot be made, or that would lie among the files of a run that is read."""
    check_new_folder(folder)
    for entry in inputs:
        if entry is not None and _consists(target_of(folder), Path(entry)):
            raise UserError(f"{key}: {folder} is part of {entry}, which is read; name a folder elsewhere")


def check_output_files(key: str, folder: Path, names: Iterable[str], inputs: Iterable[Input]) -> None:
    """Refuse a folder in which a command cannot write its files, new or not, or where one of them is an input."""
    read = list(inputs)
    if folder.is_dir():
        for name in names:
            check_output(key, folder / name, read)
    else:
        check_output_folder(key, folder, read)


def _check_place(key: str, name: str) -> None:
    """Refuse a place where no file can be written."""
    if name == "-":
        if is_closed(sys.stdout):
            raise UserError(f"{key}: standard output is closed")
        return
    path = Path(name)
    if not name.strip():
        raise UserError(f"{key}: it is blank; name a file, or - for standard output")
    if path.is_dir() or name.endswith(("/", os.sep)):
        raise UserError(f"{key}: {name} is a folder; name a file in it, such as {path / 'output.txt'}")
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise UserError(f"{key}: {name} cannot be written; name another file")
        return
    target = target_of(path)
    if not target.parent.is_dir():
        if os.path.lexists(target.parent):
            raise UserError(f"{key}: {name}: {target.parent} is not a folder; name another file")
        raise UserError(f"{key}: {name}: {os.strerror(errno.ENOENT)}; make the folder {target.parent} first")
    closed = [each for each in (target, target.parent) if os.path.lexists(each) and not os.access(each, os.W_OK)]
    if closed:
        raise UserError(f"{key}: {name} cannot be written: {closed[0]} is not writable; name another file")


def _check_identity(key: str, name: str, inputs: Iterable[Input]) -> None:
    """Refuse a file that is one of the inputs, or one of the files of an input that is a folder."""
    ours = _status(name, sys.stdout)
    for entry in inputs:
        theirs = _status(entry, sys.stdin)
        same = ours is not None and theirs is not None and os.path.samestat(ours, theirs)
        if same and theirs is not None and stat.S_ISREG(theirs.st_mode):
            said = "standard input" if entry == "-" else entry
            shown = "standard output" if name == "-" else name
            raise UserError(f"{key}: {shown} is the same file as {said}, which is read; name another file")
        is_folder = theirs is not None and stat.S_ISDIR(theirs.st_mode)
        if is_folder and name != "-" and _consists(target_of(Path(name)), Path(str(entry))):
            raise UserError(f"{key}: {name} is a file of {entry}, which is read; name another file")


def _status(entry: Input, standard: object) -> os.stat_result | None:
    """Return what the system knows of a file, or of a standard stream for ``-``; None where there is none."""
    with suppress(OSError, ValueError, AttributeError):  # a stream that is no file, as in a notebook
        return os.fstat(standard.fileno()) if entry == "-" else os.stat(str(entry))  # type: ignore[attr-defined]
    return None


def _consists(target: Path, folder: Path) -> bool:
    """Return whether the target is, or would be, among the files that a folder consists of.

    A run consists of ``RUN_FILES``, any other folder of all files that are in it.
    """
    place = target_of(folder)
    is_run = (place / "recipe.yaml").exists()
    if is_run and target.is_relative_to(place) and set(target.relative_to(place).parts[:1]) & set(RUN_FILES):
        return True
    ours = _status(target, None)
    parts = [place / name for name in RUN_FILES] if is_run else [place]
    # By identity too: another spelling on a disk that ignores case, or a hard link elsewhere.
    return ours is not None and any(os.path.samestat(ours, each) for part in parts for each in _statuses(part))


def _statuses(place: Path) -> Iterator[os.stat_result]:
    """Yield what the system knows of a file, or of each file in a folder."""
    for path in [place] if place.is_file() else place.rglob("*"):
        if path.is_file() and (found := _status(path, None)):
            yield found
