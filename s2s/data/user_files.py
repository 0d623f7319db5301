"""Examples from the user's own files and sets; large ones are read once and then mapped from the cache."""

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
from s2s.data.example_store import Columns, Examples, ExamplesWriter, read_columns
from s2s.data.progress import Progress
from s2s.data.readers import Found, read_rows
from s2s.data.rows import Example, to_example
from s2s.data.settings import DataSettings
from s2s.data.splits import SPLITS, STEMS, locate, split_files
from s2s.errors import UserError
from s2s.files.paths import cache_folder

Splits = dict[str, Examples]
Fields = Sequence[str | None]
OnProgress = Callable[[int], object]
HELD_OUT_SHARE, HELD_OUT_MOST = 0.05, 1000
READING = 2
"""Part of the cache key: to be raised whenever the same files are read to other examples."""
LARGE = 1 << 23
"""Total bytes from which examples are kept in the cache; smaller sets are read in seconds, and leave no files."""


class Part(NamedTuple):
    """A file, or a split of a set of the ``datasets`` library: rows that are read one after the other."""

    name: str
    size: int  # the value of on_progress at its end
    rows: Callable[[Sequence[str], OnProgress, Log], Iterator[Found]]  # (fields, on_progress, log)


class Origin(NamedTuple):
    """The parts of each split, and what identifies their content without reading them: paths, sizes and times."""

    parts: dict[str, list[Part]]
    identity: list[Any]

    @property
    def size(self) -> int:
        """The total size of the parts."""
        return sum(part.size for parts in self.parts.values() for part in parts)


def load(data: DataSettings, labels: Sequence[str] = (), splits: Sequence[str] = SPLITS) -> tuple[Splits, list[str]]:
    """Return the splits of the user's set and report lines; without dev examples a part of train is held out.

    Only the ``splits`` are looked for and read, the others are empty. ``labels`` are fields that examples get besides
    source and target. Raises `UserError` for a missing or ambiguous file, and for a line that cannot be used.
    """
    fields = (data.source_field, data.target_field, *labels)
    origin, home = _origin(data, splits), cache_folder(data.cache)
    entry = None
    # A set that is not in files cannot be recognised later, so it is read each time.
    if origin.identity and origin.size >= LARGE:
        entry = CacheEntry(home, key_of("examples", READING, origin.identity, fields, data.on_error))
    with entry.lock() if entry else nullcontext():
        if entry and (meta := entry.meta()):
            columns = {split: read_columns(entry.folder, split) for split in SPLITS}
            report = [*meta["report"], f"read before, kept in {entry.folder}"]
        else:
            columns, report = _read(origin, fields, data.on_error, ScratchFolder(home), entry)
    examples = {split: Examples(columns[split]) for split in SPLITS}
    if not len(examples["dev"]):
        examples["train"], examples["dev"] = hold_out(examples["train"])
        report.append(f"no dev file: held out {len(examples['dev'])} train examples as dev")
    # Train only: dev and test are scored against all references of a source at once.
    examples["train"] = examples["train"].one_target_each()
    return examples, report


def _read(
    origin: Origin, fields: Fields, on_error: str, scratch: ScratchFolder, entry: CacheEntry | None
) -> tuple[dict[str, Columns], list[str]]:
    """Read all parts, and keep their examples in the cache if there is an entry for them."""
    report: list[str] = []
    columns = {}
    with scratch, Progress("reading", origin.size) as progress:
        for split in SPLITS:
            writer = ExamplesWriter(scratch, split)
            for part in origin.parts.get(split, []):
                for example in _examples(part, fields, on_error, report, progress.at):
                    writer.append(example)
                progress.part(part.size)
            columns[split] = writer.finish()
        if entry is not None:
            scratch.keep(entry, {"report": report})
    return columns, report


def _origin(data: DataSettings, splits: Sequence[str]) -> Origin:
    if data.dataset.name is not None:
        return _of_set(data.dataset.name, parquet_files.read_named(data.dataset, splits), asdict(data.dataset))
    path = locate(data)
    if path.is_dir() and parquet_files.is_saved(path) and not data.train_files:
        saved = {STEMS[name]: rows for name, rows in parquet_files.read_saved(path).items() if name in STEMS}
        saved = {split: rows for split, rows in saved.items() if split in splits}
        if "train" not in saved:
            raise UserError(f"{path}: no split train in the saved set")
        return _of_set(str(path), saved, {})
    files = split_files(data, splits)
    parts = {split: [_file_part(file) for file in listed] for split, listed in files.items()}
    return Origin(parts, [[split, *_identity(file)] for split, listed in files.items() for file in listed])


def _of_set(name: str, splits: dict[str, Any], settings: dict[str, Any]) -> Origin:
    """Return the origin of a set of the ``datasets`` library, identified by the files of its own cache."""
    parts = {split: [_set_part(f"{name}, split {split}", rows)] for split, rows in splits.items()}
    files = [(split, len(rows), file["filename"]) for split, rows in splits.items() for file in rows.cache_files]
    return Origin(parts, [[settings, split, count, *_identity(Path(file))] for split, count, file in files])


def _set_part(name: str, rows: Any) -> Part:
    size, count = rows.data.nbytes, max(1, len(rows))

    def numbered(fields: Sequence[str], on_progress: OnProgress, _: Log) -> Iterator[Found]:
        return parquet_files.set_rows(name, rows, fields, lambda done: on_progress(done * size // count))

    return Part(name, size, numbered)


def _file_part(path: Path) -> Part:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return Part(str(path), size, lambda fields, on_progress, log: read_rows(path, fields, on_progress, log))


def _identity(path: Path) -> list[Any]:
    status = os.stat(path)
    return [str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def read(path: Path, fields: Fields, on_error: Literal["stop", "skip"]) -> tuple[list[Example], list[str]]:
    """Return the examples of one file, and report lines on the lines skipped.

    ``fields`` name the source, the target (None: there is none) and any labels. Raises `UserError` at the first bad
    line ("stop"), and for a file that is broken, empty or without a good line.
    """
    report: list[str] = []
    return list(_examples(_file_part(path), fields, on_error, report, lambda _: None)), report


def _examples(
    part: Part, fields: Fields, on_error: str, report: list[str], on_progress: OnProgress
) -> Iterator[Example]:
    """Yield the usable rows of a part as examples; lines on what was skipped are added to the report."""
    first, skipped, good = "", 0, 0
    for number, row in part.rows([field for field in fields if field is not None], on_progress, report.append):
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
    """Split off 5 % of the distinct sources (at least 1, at most 1000); a lone source stays in the first part."""
    # By the smallest hashes, so that equal sources stay together and the order of the lines does not matter.
    hashes = examples.hashes()
    ranked = numpy.unique(hashes)
    count = min(max(1, round(len(ranked) * HELD_OUT_SHARE)), HELD_OUT_MOST, len(ranked) - 1)
    chosen = numpy.isin(hashes, ranked[:count])
    return examples.take(~chosen), examples.take(chosen)
