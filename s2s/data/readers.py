"""The format of a file and its rows, for training and for every command.

A file's name says its format, with or without ``.gz`` at its end: JSON lines (.jsonl, .ndjson), a JSON document
(.json), comma- or tab-separated values with a header (.csv, .tsv), Parquet (.parquet), Arrow (.arrow, .feather). For
other names and for standard input the content decides: see ``decide``.

Lines end with LF or CR LF, or with CR in a file without any LF. A faulty row is yielded as a ``ValueError``, so that
the caller can stop there or continue with the next line.
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
"""The number of a row in its file, from 1, and the row or the error in it."""
LONGEST_LINE = 1 << 24
"""In bytes: far more than any text that a model reads, and far less than a machine's memory."""
LONG_CELL = 10
"""In lines. Longer cells are reported: a missing quote joins all rows up to the next quote without an error."""
MARK = b"\xef\xbb\xbf"
"""The byte order mark, which is not part of the first text."""
LINES = "lines"
"""The format of plain lines."""
OTHER_NAMES = {"ndjson": "jsonl", "feather": "arrow"}
SEGMENTED = ("txt", "utf8")
"""Suffixes of plain lines that training reads as segmented text: words between blanks."""
NAMES = {
    **{"jsonl": "JSON lines", "json": "a JSON document", "csv": "CSV", "tsv": "TSV"},
    **{"parquet": "Parquet", "arrow": "Arrow"},
}


def read_rows(
    path: Path, fields: Sequence[str], on_progress: Callable[[int], object], log: Log = no_log
) -> Iterator[Found]:
    """Yield the rows of a file; ``on_progress`` gets the number of bytes read, every 1000 rows.

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
                # In bytes of the packed file: the size of what is in it is not known beforehand.
                if number % 1000 == 0:
                    on_progress(raw.tell())
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: broken gzip: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _segmented_kind(path: Path) -> str:
    """Return the format in which training reads plain lines; a UserError for a name that does not say it."""
    if (kind := kind_of(path)) in SEGMENTED:
        return kind
    kinds = ", ".join(f".{kind}" for kind in FORMATS)
    raise UserError(
        f"{path}: neither its name nor its first line says its format; valid: {kinds}, each with or without .gz"
    )


def kind_of(path: Path) -> str:
    """Return the suffix of a file's name before .gz: a key of ``FORMATS``, if it is known."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.removeprefix(".")


def told_kind(name: str) -> str | None:
    """Return the format that a name says; None if the content decides."""
    kind = kind_of(Path(name))
    return OTHER_NAMES.get(kind, kind if kind in NAMES else None)


def kind_of_stream(
    name: str, raw: BinaryIO, fields: Fields, asked: str | None = None
) -> tuple[str, str | None, BinaryIO]:
    """Return a file's format, the reason if its content decided, and a stream of all its bytes, unpacked."""
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if name.endswith(".gz") else raw
    if kind := asked or told_kind(name):
        return kind, None, stream
    kind, why, stream = decide(stream, fields)
    if kind == "gzip":
        kind, why, stream = decide(cast(BinaryIO, gzip.GzipFile(fileobj=stream)), fields)
    return kind, why, stream


MAGIC = {b"PAR1\x15": "parquet", b"ARROW1\0\0": "arrow", b"\xff\xff\xff\xff": "arrow", b"\x1f\x8b": "gzip"}
"""First bytes of binary formats; no text begins with them."""
CELL = re.compile(r"[\w.:-]+")
"""The form that names in a header must have if only the content shows that it is a header."""


def decide(stream: BinaryIO, fields: Fields) -> tuple[str, str | None, BinaryIO]:
    """Return a format, the reason for it (None: plain lines) and a stream with all bytes of the given one.

    The first line that is not blank decides. A JSON object: JSON lines. The beginning of a JSON array of objects, or a
    single bracket: a JSON document. Two or more names between tabs or commas, the wanted field among them: TSV or CSV.
    Anything else: plain lines.
    """
    head = [stream.readline(LONGEST_LINE)]
    # A limit, because a pipe may give blank lines for ever, and all of them are held.
    while head[-1] and not head[-1].strip() and len(head) < 100:
        head.append(stream.readline(LONGEST_LINE))
    whole = b"".join(head)
    rewound = cast(BinaryIO, io.BufferedReader(_Rewound(whole, stream)))
    for magic, kind in MAGIC.items():
        if whole.startswith(magic):
            return kind, "it begins with the bytes of that format", rewound
    line = _text(whole.removeprefix(MARK).strip().split(b"\r")[0])
    decision = None if isinstance(line, ValueError) else _kind_of_line(line, fields)
    return (*(decision or (LINES, None)), rewound)


def _kind_of_line(line: str, fields: Fields) -> tuple[str, str] | None:
    if line in ("{", "[") or re.match(r"\[\s*\{\s*\"", line):
        return "json", "its first line begins a JSON document"
    if line.startswith("{"):
        try:
            json.loads(line)  # not by DECODER: an object with the same name twice is refused when it is read
        except (ValueError, RecursionError):
            return None
        return "jsonl", "its first line is a JSON object"
    for kind, between in (("tsv", "\t"), ("csv", ",")):
        names = [name.strip().removeprefix('"').removesuffix('"') for name in line.split(between)]
        named = [name for name in fields.names() if name in names]
        if len(names) > 1 and all(map(CELL.fullmatch, names)) and fields.met(names):
            return kind, f"its first line is a header with '{named[0]}'"
    return None


class _Rewound(io.RawIOBase):
    """A stream that begins again: with the bytes already read, then the rest. Pipes cannot seek."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = io.BytesIO(head), stream

    def readable(self) -> bool:
        """Return True: the stream is for reading."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with the bytes that are available."""
        # read1 does not wait for a full buffer, so lines of a pipe arrive as they are written.
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
        # The rest of a line that is too long is read past in pieces, never held as a whole.
        if len(first) > LONGEST_LINE and not first.endswith(b"\n"):
            while first and not first.endswith(b"\n"):
                first = stream.readline(LONGEST_LINE)
            yield ValueError(f"longer than {LONGEST_LINE >> 20} MiB")
        else:
            yield first
        first = stream.readline(LONGEST_LINE + 1)


def _carriage_returns(rest: bytes, stream: BinaryIO) -> Iterator[bytes | ValueError]:
    """Yield the lines of a file that ends them with CR; ``rest`` is its beginning."""
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


def _json(name: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, json_row)


def _segmented(name: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:  # noqa: ARG001
    return _by_line(stream, segmented_row)


def _json_document(name: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    """Yield the objects of an array, or a sequence of objects that may span lines; or JSON lines under another name."""
    kind, _, stream = decide(stream, fields)
    if kind == "jsonl":
        # Files called .json often hold JSON lines.
        yield from _json(name, stream, fields, log)
        return
    text = _text(stream.read().removeprefix(MARK))
    if isinstance(text, ValueError):
        raise UserError(f"{name}: {text}")
    at, line = 0, 1
    for start, item in _items(name, text):
        at, line = start, line + text.count("\n", at, start)
        yield line, item if isinstance(item, dict) else ValueError(f"not an object but {type(item).__name__}")


GAP = re.compile(r"\s*")


def _items(name: str, text: str) -> Iterator[tuple[int, object]]:
    """Yield the index in the text and the value of each item of an array, or of a sequence of values."""
    at = GAP.match(text).end()  # type: ignore[union-attr]
    is_array = text.startswith("[", at)
    at = GAP.match(text, at + is_array).end()  # type: ignore[union-attr]
    while at < len(text) and not (is_array and text[at] == "]"):
        start = at
        try:
            item, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise UserError(f"{name}:{line}: {json_fault(error)}") from error
        yield start, item
        at = GAP.match(text, at).end()  # type: ignore[union-attr]
        if is_array and text[at : at + 1] not in (",", "]"):
            raise UserError(f"{name}:{text.count(chr(10), 0, at) + 1}: malformed JSON: Expecting ',' or ']'")
        if is_array and text[at] == ",":
            at = GAP.match(text, at + 1).end()  # type: ignore[union-attr]
    if is_array and (at >= len(text) or text[at + 1 :].strip()):
        wrong = "the array does not end" if at >= len(text) else "something follows the array"
        raise UserError(f"{name}:{text.count(chr(10), 0, at) + 1}: malformed JSON: {wrong}")


def _tab_separated(name: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    lines = numbered_lines(stream)
    _, first = next(lines, (1, None))
    if isinstance(first, ValueError):
        raise UserError(f"{name}:1: {first}")
    if first is None:
        return
    names = _header(name, first.rstrip("\r\n").split("\t"), fields)
    quoted = 0
    for number, line in lines:
        row = _parsed(line, lambda text: _named(names, text.split("\t")))
        if not isinstance(row, ValueError):
            quoted += any(text[:1] == text[-1:] == '"' for text in row.values())
        yield number, row
    if quoted:
        rows = "1 row has" if quoted == 1 else f"{quoted} rows have"
        log(f"{name}: {rows} values in quotes, which stay; only .csv has quotes")


def _comma_separated(name: str, stream: BinaryIO, fields: Fields, log: Log) -> Iterator[Found]:
    """Yield rows of RFC 4180: quoted values may hold commas, line ends and doubled quotes.

    Of a record that cannot be read only the first physical line is lost. The lines after it are read again, since an
    unclosed quote would swallow the rest of the file.
    """
    lines = _Lines(stream)
    csv.field_size_limit(LONGEST_LINE)  # for the whole process; the default of 128 KiB is shorter than some texts
    # skipinitialspace: otherwise a blank before a quote makes the quotes part of the value
    rows = csv.reader(lines, strict=True, skipinitialspace=True)
    names: list[str] = []
    long, joined = list[str](), list[str]()
    while (record := _record(lines, rows, names)) is not None:
        number, values = record
        if isinstance(values, ValueError):
            if not names:
                raise UserError(f"{name}:{number}: {values}")
            yield number, values
        elif not names:
            names = _header(name, values, fields)
        else:
            if len(lines.taken) > 1:
                count = max(value.count("\n") for value in values) + 1
                if count > LONG_CELL:
                    long.append(f"line {number}, {count} lines")
                elif _holds_rows(values):
                    joined.append(f"line {number}, {count} lines")
            yield number, _named(names, values)
    for cases, thing in ((long, f"more than {LONG_CELL} lines"), (joined, "what looks like rows")):
        if cases:
            cells = f"{len(cases)} cell{'s hold' if len(cases) > 1 else ' holds'}"
            log(f"{name}: {cells} {thing} (first: {cases[0]}); a stray quote joins rows so")


def _holds_rows(values: Sequence[str]) -> bool:
    """Return whether a cell looks like joined rows.

    Its first line then has the commas of the rest of a row, its last those of a row's beginning, and the lines between
    those of whole rows. A comma before a blank is punctuation, which rules that out.
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
    """Return the line where the next record, or its broken quote, begins, and its values or error; None at the end."""
    lines.taken.clear()
    try:
        values = next(rows)
    except StopIteration:
        return None
    except (csv.Error, ValueError) as error:
        reason = "a carriage return is within a line" if "new-line" in str(error) else str(error)
        return _broken(lines, "never closed" if "unexpected end" in reason else None, reason)
    number = lines.taken[0][0]
    if not any(map(str.strip, values)):
        return number, ValueError("blank line")
    # A record over several lines with a wrong number of values has a stray quote, not wrong columns.
    if names and len(values) != len(names) and len(lines.taken) > 1:
        return _broken(lines, None, str(_named(names, values)))
    if any('"' in line and ODD_BLANK.search(line) for _, line in lines.taken if isinstance(line, str)):
        text = "".join(str(line) for _, line in lines.taken)
        if any(ODD_BLANK.match(text, start) for start in cell_starts(text)):
            return _broken(lines, None, "a blank other than a space is before a quote; remove it")
    return number, values


def _broken(lines: "_Lines", closed: str | None, reason: str) -> tuple[int, ValueError]:
    """Put all lines of a record but its first back; return the line where its last quote opens, and the error."""
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
"""A quote after a tab or similar: csv takes such a cell for unquoted, and would keep its quotes."""


def last_quote(record: str) -> int:
    """Return the index of the last quote that opens a cell; 0 if there is none."""
    opening = (BLANKS.match(record, start).end() for start in cell_starts(record))  # type: ignore[union-attr]
    return max((at for at in opening if record.startswith('"', at)), default=0)


def cell_starts(record: str) -> Iterator[int]:
    """Yield the index where each cell of a record begins, up to the first wrong quote."""
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
    """Decoded lines. ``taken`` has those of the current record, ``again`` those that are to be read once more."""

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


def _header(name: str, values: Sequence[str], fields: Fields) -> list[str]:
    names = [name.strip() for name in values]
    if not any(names):
        raise UserError(f"{name}:1: blank line")
    fields.check(names, f"{name}:1", "in the header")
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
