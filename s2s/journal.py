"""A file of lines that is written in pieces and can be gone on with after the process was killed at any moment.

While it is written, ``FILE.partial`` holds the lines and ``FILE.partial.json`` says how many of its lines and bytes
count and what they were made from; at the end it takes its own name. A piece of which the journal does not tell is cut
off. In a ``.gz`` file each piece is a member of its own.
"""

import fcntl
import gzip
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from s2s.disk import sync_folder, write_atomically
from s2s.errors import UserError


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

    def append(self, lines: Sequence[str], digest: str) -> None:  # noqa: ARG002
        """Write some lines at once."""
        text = "".join(line + "\n" for line in lines)
        if self.path == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write(text)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is left to do."""


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
        """Raises a ``UserError`` where another process is writing the same file."""
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.record = path.with_name(path.name + ".partial.json")
        self.file = self._open()

    def _open(self) -> BinaryIO:
        descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == self.partial.stat().st_ino:
                return os.fdopen(descriptor, "r+b")
        except OSError:
            pass  # held, or finished and renamed by who held it
        os.close(descriptor)
        raise UserError(f"{self.partial}: another process is writing it")

    def found(self) -> Written | None:
        """What a process before has left, if it is whole as far as it counts."""
        try:
            written = Written(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
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
        self.file.write(gzip.compress(piece, mtime=0) if self.path.suffix == ".gz" else piece)
        self.file.flush()
        os.fsync(self.file.fileno())
        count = self.written.lines + len(lines)
        self.written = Written(self.written.maker, count, self.file.tell(), digest)
        write_atomically(self.record, json.dumps(asdict(self.written), ensure_ascii=False))

    def finish(self) -> None:
        """Give the file its name."""
        if self.path.suffix == ".gz" and not self.written.bytes:
            self.file.write(gzip.compress(b"", mtime=0))
            self.file.flush()
        self.partial.replace(self.path)
        self.record.unlink()
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Let another process write the file."""
        self.file.close()
