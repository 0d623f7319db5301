"""A file of lines that is written piece by piece, and can be continued after a kill at any moment.

While it is written, ``FILE.partial`` holds the lines, and ``FILE.partial.json`` records how many of its lines and bytes
are valid and what they were made from; at the end FILE.partial is renamed to FILE. On resume, bytes after the recorded
ones are truncated, so that no line is duplicated or half-written. In a ``.gz`` file each piece is a gzip member.
"""

import gzip
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from s2s.console.terminal import print_results
from s2s.errors import UserError
from s2s.files.atomic import is_stream, naming, open_stream, sync_folder, take_place, target_of, write_atomically
from s2s.files.foreign import read_json
from s2s.files.locks import Lock

ENDINGS = (".partial", ".partial.json", ".partial.lock")
"""Endings of the files next to an unfinished output: its lines, the record of the valid ones, a lock."""


def output_of(name: str) -> "Output":
    """Return the writer for an output's name.

    Errors: a UserError for a file that cannot be written, and for somebody's own FILE.partial, which would be lost.
    """
    if name == "-" or is_stream(Path(name)):
        return DirectOutput(name)
    partial, record, lock = _working_files(target_of(Path(name)))
    # A valid record exists before the first line is written, and a lock file is empty. Anything else is somebody's.
    not_ours = {partial: not record.exists(), record: _read_record(record) is None, lock: True}
    for path, is_somebodys in not_ours.items():
        if is_somebodys and path.exists() and (not path.is_file() or path.stat().st_size):
            raise UserError(f"{path}: not an output that was left unfinished; move it away, or name another output")
    return Journal(Path(name))


def _working_files(path: Path) -> tuple[Path, Path, Path]:
    """Return the files next to an unfinished output, in the order of ``ENDINGS``."""
    partial, record, lock = (path.with_name(path.name + ending) for ending in ENDINGS)
    return partial, record, lock


def _read_record(path: Path) -> "Record | None":
    """Return the record in a file, or None where there is none or it is another program's."""
    try:
        return Record(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None


def encoded(lines: Sequence[str], compressed: bool = False) -> bytes:
    """Return lines in UTF-8, halves of surrogate pairs escaped; as one gzip member if ``compressed``."""
    content = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
    return gzip.compress(content, mtime=0) if compressed else content


class Output(Protocol):
    """A writer of lines."""

    def append(self, lines: Sequence[str], digest: str) -> None:
        """Write some lines; ``digest`` is the hash of all input up to theirs."""

    def finish(self) -> None:
        """Complete the output after the last line."""

    def close(self) -> None:
        """Release the output, complete or not."""


class DirectOutput:
    """Standard output, a pipe or a device, which are written to directly and cannot be resumed."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Opened once for all pieces: the reader of a pipe takes the first close for the end.
        self.file = None if path == "-" else open_stream(Path(path))

    def append(self, lines: Sequence[str], digest: str) -> None:  # noqa: ARG002
        """Write some lines at once."""
        if self.file is None:
            with naming("standard output"):
                print_results(lines)
            return
        with naming(self.path):
            self.file.write(encoded(lines))
            self.file.flush()

    def finish(self) -> None:
        """Do nothing: all is written."""

    def close(self) -> None:
        """Close the file; ``append`` has raised the error if something could not be written."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()


@dataclass(frozen=True)
class Record:
    """The number of valid lines and bytes, the settings ``maker`` that made them, and the hash of the input so far."""

    maker: dict[str, Any]
    lines: int = 0
    bytes: int = 0
    input: str = ""


class Journal:
    """A resumable output, written by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open the output; raises a ``UserError`` where another process writes it, or where it cannot be written."""
        self.path = path = target_of(path)  # a link stays, and the file that it leads to is written
        self.partial, self.record_file, lock = _working_files(path)
        self.lock = Lock(lock)
        self.file = self._open()

    def _open(self) -> BinaryIO:
        try:
            if not self.lock.take(wait=False):
                raise UserError(f"{self.partial}: another process is writing it")
            self.partial.touch()
            return self.partial.open("r+b")
        except OSError as error:
            self.lock.free(remove=True)
            raise UserError(f"{self.partial}: cannot be written ({error.strerror})") from error

    def unfinished(self) -> Record | None:
        """Return the record of an earlier process, if its lines are all there."""
        record = _read_record(self.record_file)
        if record is None or not record.lines or self.partial.stat().st_size < record.bytes:
            return None
        return record

    def start(self, record: Record) -> None:
        """Continue after the lines of a record; a new record has none."""
        self._save(record)
        self.file.truncate(record.bytes)
        self.file.seek(record.bytes)

    def append(self, lines: Sequence[str], digest: str) -> None:
        """Write some lines, made from input up to the hash ``digest``; when this returns they are on the disk."""
        piece = encoded(lines, self.path.suffix == ".gz")
        with naming(self.partial):
            self.file.write(piece)
            self.file.flush()
            os.fsync(self.file.fileno())
        # Only after the lines are on the disk: a record must never promise lines that a power failure has lost.
        self._save(Record(self.record.maker, self.record.lines + len(lines), self.file.tell(), digest))

    def _save(self, record: Record) -> None:
        self.record = record
        write_atomically(self.record_file, json.dumps(asdict(record), ensure_ascii=False))

    def finish(self) -> None:
        """Give the file its name."""
        with naming(self.path):
            if self.path.suffix == ".gz" and not self.record.bytes:
                self.file.write(encoded([], compressed=True))  # an empty file is no valid gzip file
                self.file.flush()
            self.file.close()  # Windows renames no file that is open
            take_place(self.partial, self.path)
        self.record_file.unlink()
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Let other processes write the file."""
        with suppress(OSError):  # ``append`` has raised the error if something could not be written
            self.file.close()
        self.lock.free(remove=True)
