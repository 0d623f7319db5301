"""Sources, hypotheses and references as commands read them: rows of any format that training reads, or plain lines.

``-`` is standard input. Of which format a file is, see ``s2s.data.readers``.
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
    format: str | None = None  # null: the name tells, or the content
    log: Log = no_log


ANY = Wanted()


def read_rows(path: str, wanted: Wanted = ANY) -> tuple[list[str], list[Row] | None]:
    """The lines of a file, or its rows if it is of a format that has rows.

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
    """The same one by one as they are read, whatever the file's size, and whether they are rows."""
    lines = _stream(path, wanted)
    first = next(lines)
    return lines, first.row is not None


def _stream(path: str, wanted: Wanted) -> Iterator[Line]:
    """Yield an empty line or row that tells which of the two follow, then those."""
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
    """Return the format that was asked for where a file's name does not tell one."""
    return asked if path == "-" or told_kind(path) is None else None


def misnamed(output: str, has_rows: bool) -> list[str]:
    """Return a line on an output whose name tells another format than it gets, JSON lines or plain ones."""
    told = None if output == "-" else told_kind(output)
    if told is None or (has_rows and told == "jsonl"):
        return []
    given = "JSON lines, as always for rows" if has_rows else "plain lines, as the input is"
    return [f"{output}: it gets {given}, though its name tells {NAMES[told]}"]


def place(path: str, index: int) -> str:
    """How an error names the line at ``index``, from 0, of a file."""
    return f"{'standard input' if path == '-' else path}, line {index + 1}"


def source_text(row: Row, fields: Sequence[str], place: str) -> str | list[str]:
    """The text or the tokens in the first of the ``fields`` that a row has."""
    field = next((field for field in fields if holds(row, field)), fields[0])
    value = value_of(row, field) if holds(row, field) else None
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        return [_written(token, field, place) for token in value]
    return field_text(row, field, place)


def field_text(row: Row, field: str, place: str) -> str:
    """The text in a ``field`` of a row; ``a.b`` may be the b within a."""
    if not holds(row, field):
        listed, hint = ", ".join(sorted(row)), nearest(field, row)
        # The hint lists the fields itself when none of them is near.
        among = "" if hint.endswith(f": {listed}") else f" among {listed}"
        raise UserError(f"{place}: no field '{field}'{among}{hint}")
    value = value_of(row, field)
    if not isinstance(value, str):
        raise UserError(f"{place}: field '{field}' is not a string")
    return _written(value, field, place)


def _written(text: str, field: str, place: str) -> str:
    """Return a text that has an encoding; an escape such as u+d800 alone is legal JSON, but no tokenizer reads it."""
    try:
        return encodable(text, f"field '{field}'")
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


Text = TypeVar("Text")


def read_texts(
    path: str,
    field: str,
    text_of: Callable[[Row, str, str], Text],
    format: str | None = None,
    log: Log = no_log,
) -> list[str] | list[Text]:
    """The texts of a file: lines, or what ``text_of(row, field, place)`` takes out of rows.

    ``format`` is that of a file whose name tells none; ``note`` takes lines for the user.
    """
    wanted = Wanted(Fields(one_of=(field, "hypotheses")), asked_format(path, format), log)
    lines, rows = read_rows(path, wanted)
    if rows is None:
        return lines
    texts = [text_of(row, field, place(path, index)) for index, row in enumerate(rows)]
    if empty := sum(row.get("hypotheses") == [] for row in rows):
        log(f"{path}: {empty} of {len(rows)} rows have no hypothesis; each is taken as an empty text")
    return texts


def hypothesis_text(row: Row, field: str, place: str) -> str:
    """The best hypothesis of a row that the decoder wrote; the ``field`` of any other row."""
    if "hypotheses" not in row:
        return field_text(row, field, place)
    match row["hypotheses"]:
        case []:
            return ""  # as the decoder writes where the search settings allow nothing
        case [{"text": str(text)}, *_]:
            return text
    raise UserError(f"{place}: 'hypotheses' is not a list whose first item has a 'text'")


def reference_text(row: Row, field: str, place: str) -> str | list[str]:
    """The text in a ``field`` of a row, or the list of texts there."""
    match value_of(row, field) if holds(row, field) else None:
        case [_, *_] as texts if all(isinstance(text, str) for text in texts):
            return [str(text) for text in texts]
        case list():
            raise UserError(f"{place}: field '{field}' is a list, but not of at least one string and of nothing else")
    return field_text(row, field, place)


def files(value: str) -> list[str]:
    """The files that an argument names: one whose name has a comma, or several between commas."""
    return [value] if Path(value).exists() else value.split(",")


def read_references(paths: Sequence[str], field: str, format: str | None = None, log: Log = no_log) -> References:
    """The references of each text, those of several files together."""
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
