"""A file of lines that is written in pieces and can be gone on with after the process was killed at any moment.

While it is written, ``FILE.partial`` holds the lines and ``FILE.partial.json`` says how many of its lines and bytes
count and what they were made from; at the end it takes its own name. A piece of which the journal does not tell is cut
off. In a ``.gz`` file each piece is a member of its own.
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
"""Of the names of the files that lie beside an output while it is written: its lines, what counts of them, a lock."""


def output_of(name: str) -> "Output":
    """Return where lines go.

    Errors: a UserError for a place that cannot be written, and for somebody's own FILE.partial, which would be lost.
    """
    if name == "-" or is_stream(Path(name)):
        return Printed(name)
    partial, record, lock = _beside(target_of(Path(name)))
    # A record is there, whole, before the first line; the file of a lock is empty.
    not_ours = {partial: not record.exists(), record: _read_record(record) is None, lock: True}
    for path, is_somebodys in not_ours.items():
        if is_somebodys and path.exists() and (not path.is_file() or path.stat().st_size):
            raise UserError(f"{path}: not an output that was left unfinished; move it away, or name another output")
    return Journal(Path(name))


def _beside(path: Path) -> tuple[Path, Path, Path]:
    """Return the files that lie beside an output while it is written, in the order of ``ENDINGS``."""
    partial, record, lock = (path.with_name(path.name + ending) for ending in ENDINGS)
    return partial, record, lock


def _read_record(record: Path) -> "Written | None":
    """Return what a record tells, or None where there is none of ours."""
    try:
        return Written(**read_json(record))
    except (OSError, ValueError, TypeError):
        return None


class Output(Protocol):
    """Where lines go."""

    def append(self, lines: Sequence[str], digest: str) -> None:
        """Write some lines, made from input up to the hash ``digest``."""

    def finish(self) -> None:
        """All are written."""

    def close(self) -> None:
        """No more are written, all or not."""


class Printed:
    """Standard output, or what is no regular file: nothing can be gone on with."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Opened once: a reader of a pipe would take the first closing for the end.
        self.file = None if path == "-" else open_stream(Path(path))

    def append(self, lines: Sequence[str], digest: str) -> None:  # noqa: ARG002
        """Write some lines at once."""
        if self.file is None:
            with naming("standard output"):
                print_results(lines)
            return
        with naming(self.path):
            self.file.write("".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace"))
            self.file.flush()

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Close the file; what could not be written stays unwritten."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()


@dataclass(frozen=True)
class Written:
    """So many lines and bytes count; ``maker`` made them, out of input whose lines so far have this hash."""

    maker: dict[str, Any]
    lines: int = 0
    bytes: int = 0
    input: str = ""


class Journal:
    """The lines of one file, by the one process that writes it."""

    def __init__(self, path: Path) -> None:
        """Raises a ``UserError`` where another process is writing the same file, or where none can be written."""
        self.path = path = target_of(path)  # a link stays, and the file that it leads to is written
        self.partial, self.record, lock = _beside(path)
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

    def found(self) -> Written | None:
        """What a process before has left, if it is whole as far as it counts."""
        written = _read_record(self.record)
        if written is None:
            return None
        return written if written.lines and self.partial.stat().st_size >= written.bytes else None

    def start(self, written: Written) -> None:
        """Write behind what counts, which is nothing for a new file."""
        self.written = written
        write_atomically(self.record, json.dumps(asdict(written), ensure_ascii=False))
        self.file.truncate(written.bytes)
        self.file.seek(written.bytes)

    def append(self, lines: Sequence[str], digest: str) -> None:
        """Write some lines, made from input up to the hash ``digest``; when this returns they are on the disk."""
        piece = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
        with naming(self.partial):
            self.file.write(gzip.compress(piece, mtime=0) if self.path.suffix == ".gz" else piece)
            self.file.flush()
            os.fsync(self.file.fileno())
        count = self.written.lines + len(lines)
        self.written = Written(self.written.maker, count, self.file.tell(), digest)
        write_atomically(self.record, json.dumps(asdict(self.written), ensure_ascii=False))

    def finish(self) -> None:
        """Give the file its name."""
        with naming(self.path):
            if self.path.suffix == ".gz" and not self.written.bytes:
                self.file.write(gzip.compress(b"", mtime=0))
                self.file.flush()
            self.file.close()  # Windows renames no file that is open
            take_place(self.partial, self.path)
        self.record.unlink()
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Let another process write the file."""
        with suppress(OSError):  # what could not be written was told
            self.file.close()
        self.lock.free(remove=True)
