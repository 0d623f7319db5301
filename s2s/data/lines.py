"""The files of commands: sources, hypotheses and references, as rows of any format that training reads or as lines.

``-`` is standard input. ``s2s.data.readers`` decides which format a file has.
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from s2s.console.terminal import Log, is_closed, no_log
from s2s.data.readers import FORMATS, LINES, NAMES, kind_of_stream, numbered_lines, told_kind
from s2s.data.rows import Fields, encodable, holds, value_of
from s2s.errors import UserError, nearest
from s2s.metrics.references import References

Row = dict[str, Any]
Format = Literal["lines", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]


class Line(NamedTuple):
    """A plain line without its end, or a row."""

    text: str
    row: Row | None


NOTHING = Fields()


@dataclass(frozen=True)
class Wanted:
    """The fields wanted of a file, its format where the user names one, and where remarks on the reading go."""

    fields: Fields = NOTHING
    format: str | None = None  # None: by the name, or else by the content
    log: Log = no_log


ANY = Wanted()


def read_rows(path: str, wanted: Wanted = ANY) -> tuple[list[str], list[Row] | None]:
    """Return the lines of a file and None, or nothing and its rows if its format has rows.

    Raises ``UserError`` with the file and the line for anything that cannot be read.
    """
    stream, has_rows = stream_rows(path, wanted)
    lines = list(stream)
    if has_rows:
        return [], [line.row for line in lines if line.row is not None]
    return [line.text for line in lines], None


def read_lines(path: str) -> list[str]:
    """Return the lines of a file as they are, whatever they look like."""
    return read_rows(path, Wanted(format=LINES))[0]


def stream_rows(path: str, wanted: Wanted = ANY) -> tuple[Iterator[Line], bool]:
    """Return lines or rows as they are read, one by one, and whether they are rows."""
    lines = _stream(path, wanted)
    # The first item opens the file, so that a missing one is an error here and not at the caller's loop.
    first = next(lines)
    return lines, first.row is not None


def _stream(path: str, wanted: Wanted) -> Iterator[Line]:
    """Yield an empty line or row, which shows which of the two the file has, then the lines or rows."""
    name, why, kind = "standard input" if path == "-" else path, None, LINES
    try:
        with _open(path) as raw:
            kind, why, stream = kind_of_stream(path, raw, wanted.fields, wanted.format)
            yield Line("", None if kind == LINES else {})
            yield from _plain(name, stream, wanted.log) if kind == LINES else _rows(name, kind, stream, wanted)
            if why:
                wanted.log(f"{name}: read as {NAMES[kind]}, because {why}; format=lines reads plain lines")
    except UserError as error:
        hint = f" (read as {NAMES[kind]}, because {why}; format=lines reads plain lines)" if why else ""
        raise UserError(f"{error}{hint}") from error
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{name}: damaged gzip file ({error})") from error


def _plain(name: str, stream: BinaryIO, log: Log) -> Iterator[Line]:
    inner, first = 0, 0
    for number, line in numbered_lines(stream):
        if isinstance(line, ValueError):
            raise UserError(f"{name}, line {number}: {line}")
        text = line.removesuffix("\n")
        if "\r" in text:
            inner, first = inner + 1, first or number
        yield Line(text, None)
    if inner:
        count = f"{inner} line{'s hold' if inner > 1 else ' holds'}"
        log(f"{name}: {count} a carriage return, which ends no line here (first: line {first})")


def _rows(name: str, kind: str, stream: BinaryIO, wanted: Wanted) -> Iterator[Line]:
    for number, row in FORMATS[kind](name, stream, wanted.fields, wanted.log):
        if isinstance(row, ValueError):
            raise UserError(f"{name}, line {number}: {row}")
        yield Line("", row)


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    if path == "-" and is_closed(sys.stdin):
        raise UserError("standard input: it is closed")
    return nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb")


def asked_format(path: str, asked: str | None) -> str | None:
    """Return the format that the user asked for, if the file's name does not say one."""
    return asked if path == "-" or told_kind(path) is None else None


def misnamed(output: str, has_rows: bool) -> list[str]:
    """Return a warning for an output whose name says another format than it gets, JSON lines or plain ones."""
    told = None if output == "-" else told_kind(output)
    if told is None or (has_rows and told == "jsonl"):
        return []
    given = "JSON lines, as always for rows" if has_rows else "plain lines, as the input is"
    return [f"{output}: it gets {given}, though its name says {NAMES[told]}"]


def position(path: str, index: int) -> str:
    """Return how an error names the line at ``index``, from 0, of a file."""
    return f"{'standard input' if path == '-' else path}, line {index + 1}"


def source_text(row: Row, fields: Sequence[str], position: str) -> str | list[str]:
    """Return the text or the tokens in the first of the ``fields`` that a row has."""
    field = next((field for field in fields if holds(row, field)), fields[0])
    value = value_of(row, field) if holds(row, field) else None
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return [_written(token, field, position) for token in value]
    return field_text(row, field, position)


def field_text(row: Row, field: str, position: str) -> str:
    """Return the text in a ``field`` of a row; ``a.b`` may be the b within a."""
    if not holds(row, field):
        listed, hint = ", ".join(sorted(row)), nearest(field, row)
        # nearest() lists the fields itself if none of them is similar.
        among = "" if hint.endswith(f": {listed}") else f" among {listed}"
        raise UserError(f"{position}: no field '{field}'{among}{hint}")
    value = value_of(row, field)
    if not isinstance(value, str):
        raise UserError(f"{position}: field '{field}' is not a string")
    return _written(value, field, position)


def _written(text: str, field: str, position: str) -> str:
    """Return a text that can be encoded: a lone surrogate such as u+d800 is legal JSON, but no tokenizer reads it."""
    try:
        return encodable(text, f"field '{field}'")
    except ValueError as error:
        raise UserError(f"{position}: {error}") from error


Text = TypeVar("Text")


def read_texts(
    path: str,
    field: str,
    text_of: Callable[[Row, str, str], Text],
    format: str | None = None,
    log: Log = no_log,
) -> list[str] | list[Text]:
    """Return the texts of a file: its lines, or ``text_of(row, field, position)`` of its rows.

    ``format`` is for files whose name says none; ``log`` takes lines for the user.
    """
    wanted = Wanted(Fields(one_of=(field, "hypotheses")), asked_format(path, format), log)
    lines, rows = read_rows(path, wanted)
    if rows is None:
        return lines
    texts = [text_of(row, field, position(path, index)) for index, row in enumerate(rows)]
    if empty := sum(row.get("hypotheses") == [] for row in rows):
        log(f"{path}: {empty} of {len(rows)} rows have no hypothesis; each is taken as an empty text")
    return texts


def hypothesis_text(row: Row, field: str, position: str) -> str:
    """Return the best hypothesis of a row written by the decoder; the ``field`` of any other row."""
    if "hypotheses" not in row:
        return field_text(row, field, position)
    match row["hypotheses"]:
        case []:
            return ""  # the decoder writes an empty list if the search settings allow no text
        case [{"text": str(text)}, *_]:
            return text
    raise UserError(f"{position}: 'hypotheses' is not a list whose first item has a 'text'")


def reference_text(row: Row, field: str, position: str) -> str | list[str]:
    """Return the text or the list of texts in a ``field`` of a row."""
    match value_of(row, field) if holds(row, field) else None:
        case [_, *_] as texts if all(isinstance(text, str) for text in texts):
            return [str(text) for text in texts]
        case list():
            raise UserError(
                f"{position}: field '{field}' is a list, but not of at least one string and of nothing else"
            )
    return field_text(row, field, position)


def files(value: str) -> list[str]:
    """Return the files or folders that an argument names, with commas between; one whose name has a comma is one."""
    return [value] if Path(value).exists() else value.split(",")


def read_references(paths: Sequence[str], field: str, format: str | None = None, log: Log = no_log) -> References:
    """Return the references of each text, those of several files together."""
    columns = [read_texts(path, field, reference_text, format, log) for path in paths]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[0]):
            raise UserError(f"{path} has {len(column)} references and {paths[0]} {len(columns[0])}")
    if len(columns) == 1:
        return columns[0]
    return [
        [text for item in row for text in ([item] if isinstance(item, str) else item)]
        for row in zip(*columns, strict=True)
    ]
