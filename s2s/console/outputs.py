"""Checks of a command's outputs before any work: none is an input, and each can be written."""

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
    *("weights.safetensors", "base.safetensors", "manifest.json"),
)
"""The files of a run's folder or of an exported one. Other files there are the user's, who may write outputs there."""

Input = str | Path | None


def check_output(key: str, name: str | Path, inputs: Iterable[Input], endings: Iterable[str] = ()) -> None:
    """Refuse an output file that is one of the inputs, by whatever name or link, or that cannot be written.

    ``inputs`` are the files and folders that the command reads, None if not given. ``-`` is standard input or output.
    ``endings`` are those of temporary files next to the output. Errors: a UserError that begins with the key.
    """
    given = [entry for entry in inputs if entry not in (None, "")]
    try:
        _check_writable(key, str(name))
        for ending in ("", *endings) if str(name) != "-" else ("",):
            _check_identity(key, f"{name}{ending}", given)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a NUL
        raise UserError(f"{key}: {name}: {getattr(error, 'strerror', None) or error}") from error


def check_output_folder(key: str, folder: Path, inputs: Iterable[Input]) -> None:
    """Refuse a new folder that cannot be made, or that would be one of the files of a run that is read."""
    check_new_folder(folder)
    for entry in inputs:
        if entry is not None and _is_part(target_of(folder), Path(entry)):
            raise UserError(f"{key}: {folder} is part of {entry}, which is read; name a folder elsewhere")


def check_output_files(key: str, folder: Path, names: Iterable[str], inputs: Iterable[Input]) -> None:
    """Refuse a folder, new or not, if a command's files cannot be written there, or if one of them is an input."""
    given = list(inputs)
    if folder.is_dir():
        for name in names:
            check_output(key, folder / name, given)
    elif folder.exists():
        raise UserError(f"{key}: {folder} is a file; name a folder")
    else:
        check_output_folder(key, folder, given)


def _check_writable(key: str, name: str) -> None:
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
    # The folder must be writable, too: the file is written under another name there and then renamed.
    read_only = [path for path in (target, target.parent) if os.path.lexists(path) and not os.access(path, os.W_OK)]
    if read_only:
        raise UserError(f"{key}: {name} cannot be written: {read_only[0]} is not writable; name another file")


def _check_identity(key: str, name: str, inputs: Iterable[Input]) -> None:
    """Refuse a file that is one of the inputs, or one of the files of an input that is a folder."""
    output = _status(name, sys.stdout)
    for entry in inputs:
        status = _status(entry, sys.stdin)
        if status is None:
            continue
        if output is not None and stat.S_ISREG(status.st_mode) and os.path.samestat(output, status):
            source = "standard input" if entry == "-" else entry
            shown = "standard output" if name == "-" else name
            raise UserError(f"{key}: {shown} is the same file as {source}, which is read; name another file")
        if stat.S_ISDIR(status.st_mode) and name != "-" and _is_part(target_of(Path(name)), Path(str(entry))):
            raise UserError(f"{key}: {name} is a file of {entry}, which is read; name another file")


def _status(entry: Input, standard: object) -> os.stat_result | None:
    """Return the status of a file, or of the standard stream if the entry is ``-``; None if there is none."""
    with suppress(OSError, ValueError, AttributeError):  # a stream without a file, as in a notebook
        return os.fstat(standard.fileno()) if entry == "-" else os.stat(str(entry))  # type: ignore[attr-defined]
    return None


def _is_part(target: Path, folder: Path) -> bool:
    """Return whether the target is, or would be, one of the files of a run's folder, or any file of another folder."""
    root = target_of(folder)
    is_run = (root / "recipe.yaml").exists()
    if is_run and target.is_relative_to(root) and set(target.relative_to(root).parts[:1]) & set(RUN_FILES):
        return True
    status = _status(target, None)
    parts = [root / name for name in RUN_FILES] if is_run else [root]
    # By identity, too: names may differ in case on some file systems, and a hard link may be elsewhere.
    return status is not None and any(os.path.samestat(status, other) for part in parts for other in _statuses(part))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of each file below a folder."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and (status := _status(file, None)):
            yield status
