"""Rows from files: JSON lines, tab- and comma-separated values, Parquet and segmented text, plain or gzipped, in UTF-8.

Segmented text (``.txt``, ``.utf8``) has a sentence a line, its words separated by blanks; its fields are ``text``, the
sentence without blanks, and ``bmes``, the tag of each character: begin, middle or end of a word, or single.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from s2s.data.columnar import parquet_rows
from s2s.data.rows import Row, json_row, segmented_row
from s2s.errors import UserError, nearest

Cells = TypeVar("Cells")
Found = tuple[int, Row | ValueError]
"""Where a row stands in its file, counted from 1, and the row or what is wrong with it."""
LONGEST_LINE = 1 << 24
"""In bytes: far more than a text that a model reads, far less than memory."""
MARK = b"\xef\xbb\xbf"
"""A byte order mark belongs to the file, not to its first text."""


def read_rows(path: Path, fields: Sequence[str], at: Callable[[int], object]) -> Iterator[Found]:
    """The rows of a file; ``at`` hears now and then how many bytes of it are done.

    Raises `UserError` for a file that is broken, or whose header lacks one of the fields.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            zipped = path.suffix == ".gz"
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
            for number, row in FORMATS[kind_of(path)](path, stream, fields):
                if number % 1000 == 0:
                    at(raw.tell())
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: broken gzip: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def kind_of(path: Path) -> str:
    """The kind of a file, by its name: a row of ``FORMATS``."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.removeprefix(".")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, str | ValueError]]:
    """The lines of a file without their ends."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            yield number, ValueError(f"longer than {LONGEST_LINE >> 20} MiB")
        else:
            yield number, _text(line.removeprefix(MARK) if number == 1 else line)


def _text(line: bytes) -> str | ValueError:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")


def _by_line(stream: BinaryIO, parse: Callable[[str], Cells]) -> Iterator[tuple[int, Cells | ValueError]]:
    """What the parser makes of each line."""
    return ((number, _parsed(line, parse)) for number, line in _lines(stream))


def _parsed(line: str | ValueError, parse: Callable[[str], Cells]) -> Cells | ValueError:
    if isinstance(line, ValueError):
        return line
    if not line.strip():
        return ValueError("blank line")
    try:
        return parse(line.rstrip("\r\n"))
    except ValueError as error:
        return error


def _json(path: Path, stream: BinaryIO, fields: Sequence[str]) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, json_row)


def _segmented(path: Path, stream: BinaryIO, fields: Sequence[str]) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, segmented_row)


def _tab_separated(path: Path, stream: BinaryIO, fields: Sequence[str]) -> Iterator[Found]:
    lines = _by_line(stream, lambda line: line.split("\t"))
    _, first = next(lines, (1, []))
    if isinstance(first, ValueError):
        raise UserError(f"{path}:1: {first}")
    names = _header(path, first, fields) if first else []
    for number, values in lines:
        yield number, values if isinstance(values, ValueError) else _named(names, values)


def _comma_separated(path: Path, stream: BinaryIO, fields: Sequence[str]) -> Iterator[Found]:
    """Values as RFC 4180 has them: quoted ones may hold commas, line ends and doubled quotes."""
    lines = _Lines(stream)
    csv.field_size_limit(LONGEST_LINE)  # of the whole process; the default refuses cells of 128 KiB
    rows = csv.reader(lines, strict=True)
    names: list[str] = []
    while True:
        start = lines.number + 1
        try:
            values = next(rows)
        except StopIteration:
            return
        except (csv.Error, ValueError) as error:
            if not names:
                raise UserError(f"{path}:{start}: {error}") from error
            yield start, ValueError(str(error))
            continue
        if not names:
            names = _header(path, values, fields)
        else:
            yield start, _named(names, values) if any(map(str.strip, values)) else ValueError("blank line")


class _Lines(Iterator[str]):
    """Decoded lines; after an error, the next call gives the next line."""

    def __init__(self, stream: BinaryIO) -> None:
        self.lines, self.number = _lines(stream), 0

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        if isinstance(line, ValueError):
            raise line
        return line


def _header(path: Path, values: Sequence[str], fields: Sequence[str]) -> list[str]:
    names = [name.strip() for name in values]
    for field in fields:
        if names.count(field) != 1:
            if not any(names):
                raise UserError(f"{path}:1: blank line")
            wrong = "more than one" if field in names else "no"
            raise UserError(f"{path}:1: {wrong} field '{field}' in the header{nearest(field, names)}")
    return names


def _named(names: Sequence[str], values: Sequence[object]) -> Row | ValueError:
    if len(values) != len(names):
        return ValueError(f"{len(values)} columns where the header has {len(names)}")
    return dict(zip(names, values, strict=True))


FORMATS: dict[str, Callable[[Path, BinaryIO, Sequence[str]], Iterator[Found]]] = {
    "jsonl": _json,
    "tsv": _tab_separated,
    "csv": _comma_separated,
    "parquet": parquet_rows,
    "txt": _segmented,
    "utf8": _segmented,
}
