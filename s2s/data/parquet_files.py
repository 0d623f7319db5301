"""Rows of Parquet and Arrow files and of sets of the ``datasets`` library, with the extra ``data``."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from gzip import GzipFile
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, cast

from s2s.data.rows import Fields, Row
from s2s.data.settings import StoredSet
from s2s.errors import UserError, first_line, nearest, optional_module

ROWS = 1000
"""Number of rows read at a time."""
MARKS = ({"dataset_dict.json"}, {"dataset_info.json", "state.json"})
"""Files that ``save_to_disk`` writes into the folder of a set with splits, and of a set without."""

USUAL = {"dev": ("dev", "validation", "val", "valid"), "test": ("test",)}
"""Usual names of splits, for recipes that name none."""

Numbered = Iterator[tuple[int, Row | ValueError]]


def parquet_rows(name: str, stream: BinaryIO, fields: Fields, log: object) -> Numbered:  # noqa: ARG001
    """Return the rows of a Parquet file."""
    parquet = optional_module("pyarrow.parquet", "data", name)

    def batches(file: BinaryIO) -> Iterator[Any]:
        opened = parquet.ParquetFile(file)
        columns = _columns(name, opened.schema_arrow.names, fields)
        yield from opened.iter_batches(ROWS, columns=columns)

    return _batched(name, "Parquet", stream, batches)


def arrow_rows(name: str, stream: BinaryIO, fields: Fields, log: object) -> Numbered:  # noqa: ARG001
    """Return the rows of an Arrow file of either form: with an index at its end, or a stream of batches."""
    ipc = optional_module("pyarrow.ipc", "data", name)

    def batches(file: BinaryIO) -> Iterator[Any]:
        indexed = file.read(6) == b"ARROW1"
        file.seek(0)
        opened = ipc.open_file(file) if indexed else ipc.open_stream(file)
        columns = _columns(name, opened.schema.names, fields)
        whole = map(opened.get_batch, range(opened.num_record_batches)) if indexed else opened
        yield from (batch.select(columns) for batch in whole)

    return _batched(name, "Arrow", stream, batches)


def _batched(name: str, kind: str, stream: BinaryIO, batches: Callable[[BinaryIO], Iterator[Any]]) -> Numbered:
    """Yield the rows of batches, numbered; a stream without seek is unpacked into a temporary file first."""
    with tempfile.TemporaryFile() as plain:
        # Parquet has its index at the end: gzip would have to be unpacked twice, and a pipe cannot go back.
        if isinstance(stream, GzipFile) or not stream.seekable():
            copyfileobj(stream, plain)
            plain.seek(0)
            stream = cast(BinaryIO, plain)
        done = 0
        try:
            for batch in batches(stream):
                yield from enumerate(batch.to_pylist(), start=1 + done)
                done += len(batch)
        # pyarrow raises a NotImplementedError for a codec or type that it was built without.
        except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{name}: broken {kind}: {first_line(error)}") from error


def _columns(name: str, names: Sequence[str], fields: Fields) -> list[str]:
    """Return the columns that hold the fields; ``a.b`` may be in column a."""

    def column(field: str) -> str:
        return field if field in names else field.partition(".")[0]

    columns = Fields(*(tuple(map(column, group)) for group in fields))
    for field in fields.needed:  # before columns.check, so that the message has the field's own name, a.b
        if column(field) not in names:
            raise UserError(f"{name}: no field '{field}' among its columns{nearest(field, names)}")
    columns.check(names, name, "among its columns")
    return [name for name in columns.names() if name in names]


def is_saved(path: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return any(all((path / name).is_file() for name in names) for names in MARKS)


def read_saved(path: Path) -> dict[str, Any]:
    """Return the splits of a folder written by ``save_to_disk``; a set without splits is all train."""
    datasets = optional_module("datasets", "data", str(path))
    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # each cause has its own: missing files, broken JSON, broken Arrow
        raise UserError(f"{path}: broken saved set: {first_line(error)}") from error
    return dict(saved) if isinstance(saved, dict) else {"train": saved}


def read_named(wanted: StoredSet, splits: Sequence[str]) -> dict[str, Any]:
    """Return those of the ``splits`` that a set has: one of the Hugging Face hub, or a folder or script."""
    datasets = optional_module("datasets", "data", f"data.dataset.name: '{wanted.name}'")
    try:
        loaded = datasets.load_dataset(wanted.name, wanted.config, revision=wanted.revision)
    except Exception as error:  # each cause has its own: no network, no such set, no such configuration
        raise UserError(f"data.dataset: '{wanted.name}' cannot be loaded: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"data.dataset: '{wanted.name}' has no splits")
    chosen = {"train": wanted.train, "dev": wanted.dev, "test": wanted.test}
    for split, usual in USUAL.items():
        chosen[split] = chosen[split] or next((name for name in usual if name in loaded), None)
    chosen = {split: chosen[split] for split in splits}
    for name in filter(None, chosen.values()):
        if name not in loaded:
            raise UserError(f"data.dataset: '{wanted.name}' has no split '{name}'{nearest(name, loaded)}")
    return {split: loaded[name] for split, name in chosen.items() if name}


def set_rows(
    name: str, rows: Any, fields: Sequence[str], on_progress: Callable[[int], object]
) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield the rows of a split of such a set; ``on_progress`` gets the number of rows read."""
    columns = _columns(name, rows.column_names, Fields(tuple(fields)))
    done = 0
    try:
        # with_format(None): a set's own format may give arrays or tensors for texts.
        for batch in rows.select_columns(columns).with_format(None).iter(ROWS):
            for values in zip(*(batch[column] for column in columns), strict=True):
                done += 1
                yield done, dict(zip(columns, values, strict=True))
            on_progress(done)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{name}:{done + 1}: cannot be read: {first_line(error)}") from error
