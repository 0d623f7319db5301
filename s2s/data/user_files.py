"""Examples from the user's own files and sets."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy

from s2s.console.terminal import Log
from s2s.data import parquet_files
from s2s.data.cache import CacheEntry, ScratchFolder, key_of
from s2s.data.example_store import Examples, ExamplesWriter, read_columns
from s2s.data.progress import Progress
from s2s.data.readers import Found, read_rows
from s2s.data.rows import Example, to_example
from s2s.data.settings import DataSettings
from s2s.data.splits import SPLITS, STEMS, locate, split_files
from s2s.errors import UserError
from s2s.files.paths import cache_folder

Splits = dict[str, Examples]
Fields = Sequence[str | None]
HELD_OUT_SHARE, HELD_OUT_MOST = 0.05, 1000
READING = 2
"""Part of the key of what is kept: to be raised whenever the same files are read otherwise."""
LARGE = 1 << 23
"""Files of so many bytes together are read once, and their examples kept in the cache."""


class Part(NamedTuple):
    """A file or a split of a set: rows that are read one after the other."""

    name: str
    size: int  # what the rows' reading counts up to: bytes, or rows
    rows: Callable[[Sequence[str], Callable[[int], object], Log], Iterator[Found]]


def load(data: DataSettings, labels: Sequence[str] = (), splits: Sequence[str] = SPLITS) -> tuple[Splits, list[str]]:
    """The splits of the user's set and report lines; without dev examples a part of train is held out.

    Only the ``splits`` are looked for and read, the others are empty.
    ``labels`` are further fields that examples are to have. Raises `UserError` for a missing or ambiguous file
    and for a line that cannot be used.
    """
    fields = (data.source_field, data.target_field, *labels)
    parts, seen = _parts(data, splits)
    home, size = cache_folder(data.cache), sum(part.size for listed in parts.values() for part in listed)
    shelf = (
        CacheEntry(home, key_of("examples", READING, seen, fields, data.on_error)) if seen and size >= LARGE else None
    )
    with shelf.lock() if shelf else nullcontext():
        columns, report = _kept(shelf) or _read(parts, fields, data, ScratchFolder(home), shelf)
    found = {split: Examples(columns[split]) for split in columns}
    if not len(found["dev"]):
        found["train"], found["dev"] = hold_out(found["train"])
        report.append(f"no dev file: held out {len(found['dev'])} train examples as dev")
    found["train"] = found["train"].one_target_each()
    return found, report


def _kept(shelf: CacheEntry | None) -> tuple[dict[str, Any], list[str]] | None:
    """What an earlier call has left on the shelf."""
    meta = shelf.meta() if shelf else None
    if shelf is None or meta is None:
        return None
    columns = {split: read_columns(shelf.folder, split) for split in SPLITS}
    return columns, [*meta["report"], f"read before, kept in {shelf.folder}"]


def _read(
    parts: dict[str, list[Part]], fields: Fields, data: DataSettings, scratch: ScratchFolder, shelf: CacheEntry | None
) -> tuple[dict[str, Any], list[str]]:
    report: list[str] = []
    columns = {}
    with scratch, Progress("reading", sum(part.size for listed in parts.values() for part in listed)) as progress:
        for split in SPLITS:
            writer = ExamplesWriter(scratch, split)
            for part in parts.get(split, []):
                for example in _examples(part, fields, data.on_error, report, progress.at):
                    writer.append(example)
                progress.part(part.size)
            columns[split] = writer.finish()
        if shelf is not None:
            scratch.keep(shelf, {"report": report})
    return columns, report


def _parts(data: DataSettings, splits: Sequence[str]) -> tuple[dict[str, list[Part]], list[Any]]:
    """What is to be read for each split, and what tells the files from others without reading them."""
    if data.dataset.name is not None:
        return _set_parts(data.dataset.name, parquet_files.read_named(data.dataset, splits), asdict(data.dataset))
    path = locate(data)
    if path.is_dir() and parquet_files.is_saved(path) and not data.train_files:
        saved = {
            STEMS[name]: rows for name, rows in parquet_files.read_saved(path).items() if STEMS.get(name) in splits
        }
        if "train" not in saved:
            raise UserError(f"{path}: no split train in the saved set")
        return _set_parts(str(path), saved, {})
    files = split_files(data, splits)
    parts = {split: [_file_part(file) for file in listed] for split, listed in files.items()}
    return parts, [[split, *_seen(file)] for split, listed in files.items() for file in listed]


def _file_part(path: Path) -> Part:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return Part(str(path), size, lambda fields, at, log: read_rows(path, fields, at, log))


def _set_parts(name: str, splits: dict[str, Any], wanted: dict[str, Any]) -> tuple[dict[str, list[Part]], list[Any]]:
    parts = {split: [_set_part(f"{name}, split {split}", rows)] for split, rows in splits.items()}
    files = [(split, len(rows), file) for split, rows in splits.items() for file in rows.cache_files]
    return parts, [[wanted, split, count, *_seen(Path(file["filename"]))] for split, count, file in files]


def _set_part(place: str, rows: Any) -> Part:
    size, count = rows.data.nbytes, max(1, len(rows))
    return Part(
        place,
        size,
        lambda fields, at, _: parquet_files.set_rows(place, rows, fields, lambda done: at(done * size // count)),
    )


def _seen(path: Path) -> list[Any]:
    facts = os.stat(path)
    return [str(path.absolute()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def read(path: Path, fields: Fields, on_error: Literal["stop", "skip"]) -> tuple[list[Example], list[str]]:
    """The examples of one file and report lines about lines skipped.

    ``fields`` name the source, the target (None: there is none) and any labels. Raises `UserError` at the first bad
    line ("stop"), and for a file that is broken, empty or without a good line.
    """
    report: list[str] = []
    return list(_examples(_file_part(path), fields, on_error, report, lambda _: None)), report


def _examples(
    part: Part, fields: Fields, on_error: str, report: list[str], at: Callable[[int], object]
) -> Iterator[Example]:
    """The usable rows of a part; what was skipped is added to the report."""
    first, skipped, good = "", 0, 0
    for number, row in part.rows([field for field in fields if field is not None], at, report.append):
        try:
            if isinstance(row, ValueError):
                raise row
            example = to_example(row, fields)
        except ValueError as error:
            if on_error == "stop":
                raise UserError(f"{part.name}:{number}: {error}") from error
            first, skipped = first or f"line {number}: {error}", skipped + 1
        else:
            good += 1
            yield example
    if not good:
        raise UserError(f"{part.name}: no usable line (first: {first})" if skipped else f"{part.name}: empty")
    if skipped:
        report.append(f"{part.name}: skipped {skipped} line{'s' * (skipped > 1)} (first: {first})")


def hold_out(examples: Examples) -> tuple[Examples, Examples]:
    """Divides ``examples`` in two, the second being 5 % of the distinct sources (at least 1, at most 1000).

    The sources with the smallest hashes are held out, so that equal sources stay together and the choice does not
    depend on the order of the lines; a lone source is not held out.
    """
    hashes = examples.hashes()
    ranked = numpy.unique(hashes)
    count = min(max(1, round(len(ranked) * HELD_OUT_SHARE)), HELD_OUT_MOST, len(ranked) - 1)
    chosen = numpy.isin(hashes, ranked[:count])
    return examples.take(~chosen), examples.take(chosen)
