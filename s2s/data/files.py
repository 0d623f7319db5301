"""Examples from the user's own files: JSON Lines, tab-separated values or segmented text, plain or gzipped, in UTF-8.

Segmented text (``.txt``, ``.utf8``) has a sentence a line, its words separated by blanks; its fields are ``text``, the
sentence without blanks, and ``bmes``, the tag of each character: begin, middle or end of a word, or single.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from s2s.data.rows import Example, Row, json_row, segmented_row, to_example
from s2s.data.settings import DataSettings, root_folder
from s2s.errors import UserError, nearest

Splits = dict[str, list[Example]]

STEMS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
KINDS = "jsonl|tsv|txt|utf8"
FILE_NAME = re.compile(rf"({'|'.join(STEMS)})\.({KINDS})(\.gz)?")
SUFFIX = re.compile(rf".+\.({KINDS})(\.gz)?")
HELD_OUT_SHARE, HELD_OUT_MOST = 0.05, 1000


def load(data: DataSettings, labels: Sequence[str] = ()) -> tuple[Splits, list[str]]:
    """The splits of the set at ``data.path`` and report lines; without a dev file a part of train is held out.

    ``labels`` are further fields that examples are to have. Raises `UserError` for a missing or ambiguous file
    and for a line that cannot be used.
    """
    fields = (data.source_field, data.target_field, *labels)
    splits: Splits = {"train": [], "dev": [], "test": []}
    report: list[str] = []
    for split, path in _split_files(_locate(data)).items():
        splits[split], lines = read(path, fields, data.on_error)
        report += lines
    if not splits["dev"]:
        splits["train"], splits["dev"] = hold_out(splits["train"])
        report.append(f"no dev file: held out {len(splits['dev'])} train examples as dev")
    return splits, report


def _locate(data: DataSettings) -> Path:
    root = root_folder(data)
    path = root / Path(data.path or "").expanduser()
    if path.exists():
        return path
    if not path.parent.is_dir():
        raise UserError(f"data.path: {path} is missing, and so is its folder (root: {root})")
    siblings = [entry.name for entry in path.parent.iterdir()]
    closest = get_close_matches(path.name, siblings, n=10, cutoff=0)
    hint = nearest(path.name, closest) if closest else "; its folder is empty"
    raise UserError(f"data.path: {path} is missing (root: {root}){hint}")


def _split_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        if not SUFFIX.fullmatch(path.name):
            kinds = ", ".join(f".{kind}" for kind in KINDS.split("|"))
            raise UserError(f"{path}: unknown kind of file; valid: {kinds}, each with or without .gz")
        return {"train": path}
    found: dict[str, Path] = {}
    for entry in sorted(path.iterdir()):
        match = FILE_NAME.fullmatch(entry.name)
        if match and STEMS[match[1]] in found:
            raise UserError(f"{path}: two files for one split: {found[STEMS[match[1]]].name} and {entry.name}")
        if match:
            found[STEMS[match[1]]] = entry
    if "train" not in found:
        raise UserError(f"{path}: no train file; one of train.jsonl, train.tsv (or either with .gz) is needed")
    return found


def read(
    path: Path, fields: Sequence[str | None], on_error: Literal["stop", "skip"]
) -> tuple[list[Example], list[str]]:
    """The examples of one file and report lines about lines skipped.

    ``fields`` name the source, the target (None: there is none) and any labels. Raises `UserError` at the first bad
    line ("stop"), and for a file that is broken, empty or without a good line.
    """
    examples: list[Example] = []
    first, count = "", 0
    lines = _lines(path)
    parse = _parser(path, lines, fields)
    for number, line in lines:
        try:
            examples.append(to_example(parse(_decode(line)), fields))
        except ValueError as error:
            if on_error == "stop":
                raise UserError(f"{path}:{number}: {error}") from error
            first, count = first or f"line {number}: {error}", count + 1
    if not examples:
        raise UserError(f"{path}: no usable line (first: {first})" if count else f"{path}: empty")
    return examples, [f"{path}: skipped {count} line{'s' * (count > 1)} (first: {first})"] if count else []


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                # A byte order mark belongs to the file, not to its first text.
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: broken gzip: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(line: bytes) -> str:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}") from error
    if not text.strip():
        raise ValueError("blank line")
    return text


def _parser(path: Path, lines: Iterator[tuple[int, bytes]], fields: Sequence[str | None]) -> Callable[[str], Row]:
    """What makes a row of a line, by the kind of file."""
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".tsv":
        return _tsv_parser(path, lines, [field for field in fields if field is not None])
    return json_row if kind == ".jsonl" else segmented_row


def _tsv_parser(path: Path, lines: Iterator[tuple[int, bytes]], fields: Sequence[str]) -> Callable[[str], Row]:
    header = next(lines, None)
    if header is None:
        raise UserError(f"{path}: empty")
    try:
        names = [name.strip() for name in _decode(header[1]).split("\t")]
    except ValueError as error:
        raise UserError(f"{path}:1: {error}") from error
    for field in fields:
        if names.count(field) != 1:
            wrong = "more than one" if field in names else "no"
            raise UserError(f"{path}:1: {wrong} field '{field}' in the header{nearest(field, names)}")

    def parse(line: str) -> Row:
        values = line.split("\t")
        if len(values) != len(names):
            raise ValueError(f"{len(values)} columns where the header has {len(names)}")
        return dict(zip(names, values, strict=True))

    return parse


def hold_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Divides ``examples`` in two, the second being 5 % of the distinct sources (at least 1, at most 1000).

    The sources with the smallest hashes are held out, so that equal sources stay together and the choice does not
    depend on the order of the lines; a lone source is not held out.
    """
    ranked = sorted({example.source for example in examples}, key=lambda text: hashlib.sha256(text.encode()).digest())
    count = min(max(1, round(len(ranked) * HELD_OUT_SHARE)), HELD_OUT_MOST, len(ranked) - 1)
    chosen = set(ranked[:count])
    kept = [example for example in examples if example.source not in chosen]
    return kept, [example for example in examples if example.source in chosen]
