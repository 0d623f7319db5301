"""Lines of the files that commands read: plain text or JSONL, plain or gzipped, ``-`` for standard input."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from s2s.errors import UserError, nearest

Row = dict[str, Any]


class Line(NamedTuple):
    """A line without its end, and its row if the file is JSONL."""

    text: str
    row: Row | None


def read_rows(path: str) -> tuple[list[str], list[Row] | None]:
    """The lines of a file, and its rows if it is JSONL: by its name, or standard input by its first line.

    Raises ``UserError`` with the file and the line for anything that cannot be read.
    """
    stream, is_jsonl = stream_rows(path)
    lines = list(stream)
    texts = [line.text for line in lines]
    return texts, [line.row for line in lines if line.row is not None] if is_jsonl else None


def stream_rows(path: str) -> tuple[Iterator[Line], bool]:
    """The same one by one as they are read, whatever the file's size, and whether it is JSONL."""
    lines = _read_lines(path, "standard input" if path == "-" else path)
    first = list(islice(lines, 1))
    is_jsonl = path.removesuffix(".gz").endswith(".jsonl") or (path == "-" and _starts_with_object(first))
    numbered = enumerate(chain(first, lines))
    return (Line(text, _parse_row(text, place(path, at)) if is_jsonl else None) for at, text in numbered), is_jsonl


def place(path: str, index: int) -> str:
    """How an error names the line at ``index``, from 0, of a file."""
    return f"{'standard input' if path == '-' else path}, line {index + 1}"


def field_text(row: Row, field: str, place: str) -> str:
    """The text in a ``field`` of a row."""
    if field not in row:
        listed, hint = ", ".join(sorted(row)), nearest(field, row)
        # The hint lists the fields itself when none of them is near.
        among = "" if hint.endswith(f": {listed}") else f" among {listed}"
        raise UserError(f"{place}: no field '{field}'{among}{hint}")
    if not isinstance(row[field], str):
        raise UserError(f"{place}: field '{field}' is not a string")
    return cast(str, row[field])


def _read_lines(path: str, name: str) -> Iterator[str]:
    try:
        with _open(path) as stream:
            # Bytes end lines at \n only; text would end them at further characters that belong to a text.
            for number, line in enumerate(stream, start=1):
                yield _decode(line, name, number)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{name}: damaged gzip file ({error})") from error


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else Path(path).open("rb")


def _decode(line: bytes, name: str, number: int) -> str:
    content = line.removesuffix(b"\r\n").removesuffix(b"\n")
    try:
        return content.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}, line {number}: not UTF-8 at byte {error.start + 1}") from error


def _parse_row(line: str, place: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: malformed JSON at column {error.colno} ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: JSON that cannot be read ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row


def _starts_with_object(lines: Sequence[str]) -> bool:
    try:
        return bool(lines) and isinstance(json.loads(lines[0]), dict)
    except (ValueError, RecursionError):
        return False
