"""Rows of files, for training and for every command: which format a file has, and what a row of it holds.

A file's name tells its format, with ``.gz`` after it or not: JSON lines (.jsonl, .ndjson), a JSON document (.json),
comma- or tab-separated values with a header (.csv, .tsv), Parquet (.parquet), Arrow (.arrow, .feather). Where the name
is another, and for standard input, the content decides: see ``decide``.

Lines end with LF or CR LF; in a file without any LF, with CR. What is wrong with a row is a ``ValueError`` in its
place, so that whoever reads can stop there or go on with the next line.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from s2s.console.terminal import Log, no_log
from s2s.data.parquet_files import arrow_rows, parquet_rows
from s2s.data.rows import DECODER, Fields, Row, json_fault, json_row, segmented_row
from s2s.errors import UserError

Found = tuple[int, Row | ValueError]
"""Where a row stands in its file, counted from 1, and the row or what is wrong with it."""
"""Takes a line for the user about a file that was read."""
LONGEST_LINE = 1 << 24
"""In bytes: far more than a text that a model reads, far less than memory."""
LONG_CELL = 10
"""In lines. More of them in one cell are counted: a quote that closes far below its place joins rows unseen."""
MARK = b"\xef\xbb\xbf"
"""A byte order mark belongs to the file, not to its first text."""
LINES = "lines"
"""The format of plain lines."""
OTHER_NAMES = {"ndjson": "jsonl", "feather": "arrow"}
SEGMENTED = ("txt", "utf8")
"""Names of plain lines that training reads as segmented text: words between blanks."""
NAMES = {
    **{"jsonl": "JSON lines", "json": "a JSON document", "csv": "CSV", "tsv": "TSV"},
    **{"parquet": "Parquet", "arrow": "Arrow"},
}


def read_rows(path: Path, fields: Sequence[str], at: Callable[[int], object], log: Log = no_log) -> Iterator[Found]:
    """The rows of a file; ``at`` hears now and then how many bytes of it are done.

    Raises `UserError` for a file that is broken, or whose header lacks one of the fields.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            wanted = Fields(tuple(fields))
            kind, why, stream = kind_of_stream(str(path), raw, wanted)
            if kind == LINES:
                kind = _segmented_kind(path)
            elif why:
                log(f"{path}: read as {NAMES[kind]}, because {why}")
            for number, row in FORMATS[kind](str(path), stream, wanted, log):
                if number % 1000 == 0:
                    at(raw.tell())
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: broken gzip: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _segmented_kind(path: Path) -> str:
    """Return how training reads plain lines."""
    if (kind := kind_of(path)) in SEGMENTED:
        return kind
    kinds = ", ".join(f".{kind}" for kind in FORMATS)
    raise UserError(
        f"{path}: its name tells no format, nor does its first line; valid: {kinds}, each with or without .gz"
    )


def kind_of(path: Path) -> str:
    """The kind of a file, by its name: a row of ``FORMATS``, if it is known."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.removeprefix(".")


def told_kind(name: str) -> str | None:
    """Return the format that a name tells, or None where the content has to."""
    kind = kind_of(Path(name))
    return OTHER_NAMES.get(kind, kind if kind in NAMES else None)


def kind_of_stream(
    name: str, raw: BinaryIO, fields: Fields, asked: str | None = None
) -> tuple[str, str | None, BinaryIO]:
    """Return a file's format, why if its content decided, and its bytes, unpacked, from the beginning."""
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if name.endswith(".gz") else raw
    if kind := asked or told_kind(name):
        return kind, None, stream
    kind, why, stream = decide(stream, fields)
    if kind == "gzip":
        kind, why, stream = decide(cast(BinaryIO, gzip.GzipFile(fileobj=stream)), fields)
    return kind, why, stream


MAGIC = {b"PAR1\x15": "parquet", b"ARROW1\0\0": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x1f\x8b": "gzip"}
"""Bytes that no UTF-8 text begins with, or none that anybody writes."""
CELL = re.compile(r"[\w.:-]+")
"""What a name in a header looks like where only the content tells that it is one."""


def decide(stream: BinaryIO, fields: Fields) -> tuple[str, str | None, BinaryIO]:
    """Return a format, why it is that one (None: plain lines) and the stream with all of its bytes.

    The first line that is not blank decides: a JSON object makes JSON lines; the beginning of a JSON array of objects,
    or a lone bracket, a JSON document; two or more names with the wanted field among them, between tabs or commas, a
    header of TSV or CSV. Anything else makes plain lines.
    """
    head = [stream.readline(LONGEST_LINE)]
    while head[-1] and not head[-1].strip() and len(head) < 100:
        head.append(stream.readline(LONGEST_LINE))
    whole = b"".join(head)
    back = cast(BinaryIO, io.BufferedReader(_Again(whole, stream)))
    for magic, kind in MAGIC.items():
        if whole.startswith(magic):
            return kind, "it begins with the bytes of that format", back
    line = _text(whole.removeprefix(MARK).strip().split(b"\r")[0])
    found = None if isinstance(line, ValueError) else _kind_of_line(line, fields)
    return (*(found or (LINES, None)), back)


def _kind_of_line(line: str, fields: Fields) -> tuple[str, str] | None:
    if line in ("{", "[") or re.match(r"\[\s*\{\s*\"", line):
        return "json", "its first line begins a JSON document"
    if line.startswith("{"):
        try:
            json.loads(line)  # an object, as it begins; names that stand twice are refused when it is read
        except (ValueError, RecursionError):
            return None
        return "jsonl", "its first line is a JSON object"
    for kind, between in (("tsv", "\t"), ("csv", ",")):
        names = [name.strip().removeprefix('"').removesuffix('"') for name in line.split(between)]
        named = [name for name in fields.names() if name in names]
        if len(names) > 1 and all(map(CELL.fullmatch, names)) and fields.met(names):
            return kind, f"its first line is a header with '{named[0]}'"
    return None


class _Again(io.RawIOBase):
    """A stream with the bytes that were read of it put back in front."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = io.BytesIO(head), stream

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as bytes are there."""
        # read1, so that lines of a pipe come as they are written
        content = self.head.read(len(buffer)) or getattr(self.stream, "read1", self.stream.read)(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, str | ValueError]]:
    """Yield the number and text of each line of a file, the text with an LF where the line has an end."""
    for number, line in enumerate(_byte_lines(stream), start=1):
        if isinstance(line, ValueError):
            yield number, line
        else:
            text = _text(line.removeprefix(MARK) if number == 1 else line)
            yield number, text.removesuffix("\r\n") + "\n" if isinstance(text, str) and text.endswith("\r\n") else text


def _byte_lines(stream: BinaryIO) -> Iterator[bytes | ValueError]:
    first = stream.readline(LONGEST_LINE + 1)
    if b"\r" in first and b"\n" not in first:
        yield from _carriage_returns(first, stream)
        return
    while first:
        if len(first) > LONGEST_LINE and not first.endswith(b"\n"):
            while first and not first.endswith(b"\n"):
                first = stream.readline(LONGEST_LINE)
            yield ValueError(f"longer than {LONGEST_LINE >> 20} MiB")
        else:
            yield first
        first = stream.readline(LONGEST_LINE + 1)


def _carriage_returns(rest: bytes, stream: BinaryIO) -> Iterator[bytes | ValueError]:
    """Yield the lines of a file that ends them with CR, as ``rest``, its beginning, tells."""
    while block := stream.read(1 << 16):
        rest += block
        *lines, rest = rest.split(b"\r")
        yield from (line + b"\n" for line in lines)
        if len(rest) > LONGEST_LINE:
            raise OSError(f"a line is longer than {LONGEST_LINE >> 20} MiB")
    *lines, last = rest.split(b"\r")
    yield from (line + b"\n" for line in lines)
    if last:
        yield last


def _text(line: bytes) -> str | ValueError:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            return ValueError("not UTF-8 but UTF-16; save it as UTF-8")
        return ValueError(f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")


def _by_line(stream: BinaryIO, parse: Callable[[str], Row | ValueError]) -> Iterator[Found]:
    """What the parser makes of each line."""
    return ((number, _parsed(line, parse)) for number, line in numbered_lines(stream))


def _parsed(line: str | ValueError, parse: Callable[[str], Row | ValueError]) -> Row | ValueError:
    if isinstance(line, ValueError):
        return line
    if not line.strip():
        return ValueError("blank line")
    try:
        return parse(line.rstrip("\r\n"))
    except ValueError as error:
        return error


def _json(place: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, json_row)


def _segmented(place: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, segmented_row)


def _json_document(place: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    """An array of objects, or objects one after the other, each over several lines or not; or JSON lines after all."""
    kind, _, stream = decide(stream, fields)
    if kind == "jsonl":
        yield from _json(place, stream, fields, log)
        return
    text = _text(stream.read().removeprefix(MARK))
    if isinstance(text, ValueError):
        raise UserError(f"{place}: {text}")
    at, line = 0, 1
    for start, item in _items(place, text):
        at, line = start, line + text.count("\n", at, start)
        yield line, item if isinstance(item, dict) else ValueError(f"not an object but {type(item).__name__}")


GAP = re.compile(r"\s*")


def _items(place: str, text: str) -> Iterator[tuple[int, object]]:
    """Yield the place and the value of each item of an array, or of values one after the other."""
    at = GAP.match(text).end()  # type: ignore[union-attr]
    is_array = text.startswith("[", at)
    at = GAP.match(text, at + is_array).end()  # type: ignore[union-attr]
    while at < len(text) and not (is_array and text[at] == "]"):
        start = at
        try:
            item, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise UserError(f"{place}:{line}: {json_fault(error)}") from error
        yield start, item
        at = GAP.match(text, at).end()  # type: ignore[union-attr]
        if is_array and text[at : at + 1] not in (",", "]"):
            raise UserError(f"{place}:{text.count(chr(10), 0, at) + 1}: malformed JSON: Expecting ',' or ']'")
        if is_array and text[at] == ",":
            at = GAP.match(text, at + 1).end()  # type: ignore[union-attr]
    if is_array and (at >= len(text) or text[at + 1 :].strip()):
        wrong = "the array does not end" if at >= len(text) else "something follows the array"
        raise UserError(f"{place}:{text.count(chr(10), 0, at) + 1}: malformed JSON: {wrong}")


def _tab_separated(place: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    lines = numbered_lines(stream)
    _, first = next(lines, (1, None))
    if isinstance(first, ValueError):
        raise UserError(f"{place}:1: {first}")
    if first is None:
        return
    names = _header(place, first.rstrip("\r\n").split("\t"), fields)
    quoted = 0
    for number, line in lines:
        row = _parsed(line, lambda text: _named(names, text.split("\t")))
        if not isinstance(row, ValueError):
            quoted += any(text[:1] == text[-1:] == '"' for text in row.values())
        yield number, row
    if quoted:
        rows = "1 row has" if quoted == 1 else f"{quoted} rows have"
        log(f"{place}: {rows} values in quotes, which stay; only .csv has quotes")


def _comma_separated(place: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    """Values as RFC 4180 has them: quoted ones may hold commas, line ends and doubled quotes.

    A record that cannot be read costs its first physical line: the lines after it are read again, as an unclosed quote
    would swallow the rest of the file.
    """
    lines = _Lines(stream)
    csv.field_size_limit(LONGEST_LINE)  # of the whole process; the default refuses cells of 128 KiB
    rows = csv.reader(lines, strict=True, skipinitialspace=True)  # else a blank before a quote keeps the quotes
    names: list[str] = []
    long, joined = list[str](), list[str]()
    while (found := _record(lines, rows, names)) is not None:
        number, values = found
        if isinstance(values, ValueError):
            if not names:
                raise UserError(f"{place}:{number}: {values}")
            yield number, values
        elif not names:
            names = _header(place, values, fields)
        else:
            if len(lines.taken) > 1:
                count = max(value.count("\n") for value in values) + 1
                if count > LONG_CELL:
                    long.append(f"line {number}, {count} lines")
                elif _holds_rows(values):
                    joined.append(f"line {number}, {count} lines")
            yield number, _named(names, values)
    for told, thing in ((long, f"more than {LONG_CELL} lines"), (joined, "what looks like rows")):
        if told:
            cells = f"{len(told)} cell{'s hold' if len(told) > 1 else ' holds'}"
            log(f"{place}: {cells} {thing} (first: {told[0]}); a stray quote joins rows so")


def _holds_rows(values: Sequence[str]) -> bool:
    """Return whether a cell's lines have the commas of the rest of a row, of whole rows and of a row's beginning.

    A comma with a blank after it is one of a text.
    """
    last = len(values) - 1
    for index, value in enumerate(values):
        first, *others = value.split("\n")
        if last and others:
            commas = [last - index, *(last for _ in others[1:]), index]
            lines = (first, *others)
            if [line.count(",") for line in lines] == commas and not re.search(r",(\s|$)", value):
                return True
    return False


def _record(
    lines: "_Lines", rows: Iterator[list[str]], names: Sequence[str]
) -> tuple[int, list[str] | ValueError] | None:
    """Return the next record or what is wrong with it, and the line where it, or its broken quote, begins."""
    lines.taken.clear()
    try:
        values = next(rows)
    except StopIteration:
        return None
    except (csv.Error, ValueError) as error:
        reason = "a carriage return stands within a line" if "new-line" in str(error) else str(error)
        return _broken(lines, "never closed" if "unexpected end" in reason else None, reason)
    number = lines.taken[0][0]
    if not any(map(str.strip, values)):
        return number, ValueError("blank line")
    if names and len(values) != len(names) and len(lines.taken) > 1:
        return _broken(lines, None, str(_named(names, values)))
    if any('"' in line and ODD_BLANK.search(line) for _, line in lines.taken if isinstance(line, str)):
        text = "".join(str(line) for _, line in lines.taken)
        if any(ODD_BLANK.match(text, start) for start in cell_starts(text)):
            return _broken(lines, None, "a blank that is no space stands before a quote; remove it")
    return number, values


def _broken(lines: "_Lines", closed: str | None, reason: str) -> tuple[int, ValueError]:
    """Give back all lines of a record but its first; return the line where its last quote opens, and what is wrong."""
    start, last = lines.taken[0][0], lines.taken[-1][0]
    text = "".join(line for _, line in lines.taken if isinstance(line, str))
    number = start + text.count("\n", 0, last_quote(text))
    lines.again.extendleft(reversed(lines.taken[1:]))
    if closed:
        return number, ValueError(f"a quote is opened here and {closed}")
    if last > number:
        return number, ValueError(f"a quote is opened here, and on line {last}: {reason}")
    return number, ValueError(reason)


QUOTED = re.compile(r'[^"]*(?:""[^"]*)*"')
BLANKS = re.compile(" *")
ODD_BLANK = re.compile(r' *[^\S \r\n]\s*"')
"""A quote after a tab or the like: csv takes such a cell as unquoted, and would keep its quotes."""


def last_quote(record: str) -> int:
    """Return where the last quote stands that opens a cell; 0 where there is none."""
    opening = (BLANKS.match(record, start).end() for start in cell_starts(record))  # type: ignore[union-attr]
    return max((at for at in opening if record.startswith('"', at)), default=0)


def cell_starts(record: str) -> Iterator[int]:
    """Yield where each cell of a record begins, as far as its quotes are right."""
    end = at = 0
    while True:
        yield at
        end = BLANKS.match(record, at).end()  # type: ignore[union-attr]
        if record.startswith('"', end):
            closing = QUOTED.match(record, end + 1)
            if closing is None or not record.startswith(",", closing.end()):
                return
            end = closing.end()
        at = record.find(",", end) + 1
        if not at:
            return


class _Lines(Iterator[str]):
    """Decoded lines, those of the present record kept; after an error, the next call gives the next line."""

    def __init__(self, stream: BinaryIO) -> None:
        self.lines = numbered_lines(stream)
        self.again = deque[tuple[int, str | ValueError]]()
        self.taken: list[tuple[int, str | ValueError]] = []

    def __next__(self) -> str:
        number, line = self.again.popleft() if self.again else next(self.lines)
        self.taken.append((number, line))
        if isinstance(line, ValueError):
            raise line
        return line


def _header(place: str, values: Sequence[str], fields: Fields) -> list[str]:
    names = [name.strip() for name in values]
    if not any(names):
        raise UserError(f"{place}:1: blank line")
    fields.check(names, f"{place}:1", "in the header")
    return names


def _named(names: Sequence[str], values: Sequence[object]) -> Row | ValueError:
    if len(values) != len(names):
        return ValueError(f"{len(values)} columns where the header has {len(names)}")
    return dict(zip(names, values, strict=True))


FORMATS: dict[str, Callable[[str, BinaryIO, Fields, Log], Iterator[Found]]] = {
    "jsonl": _json,
    "tsv": _tab_separated,
    "csv": _comma_separated,
    "parquet": parquet_rows,
    "json": _json_document,
    "ndjson": _json,
    "arrow": arrow_rows,
    "feather": arrow_rows,
    "txt": _segmented,
    "utf8": _segmented,
}
