"""Rows of Parquet files and of sets of the ``datasets`` library; both come with the extra ``data``."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, cast

from s2s.data.rows import Row
from s2s.data.settings import StoredSet
from s2s.errors import UserError, nearest
from s2s.packages import optional_module

ROWS = 1000
"""How many rows are taken at a time."""
MARKS = ({"dataset_dict.json"}, {"dataset_info.json", "state.json"})
"""Files that ``save_to_disk`` leaves in the folder of a set with splits, and of one without."""

USUAL = {"dev": ("dev", "validation", "val", "valid"), "test": ("test",)}
"""What splits are called where a recipe does not say it."""


def parquet_rows(path: Path, stream: BinaryIO, fields: Sequence[str]) -> Iterator[tuple[int, Row | ValueError]]:
    """The rows of a Parquet file; a zipped one is unpacked into a temporary file, as its index stands at its end."""
    parquet = optional_module("pyarrow.parquet", "data", str(path))
    with tempfile.TemporaryFile() as plain:
        if path.suffix == ".gz":
            copyfileobj(stream, plain)
            stream = cast(BinaryIO, plain)
        try:
            file = parquet.ParquetFile(stream)
            columns = _columns(str(path), file.schema_arrow.names, fields)
            for first, batch in enumerate(file.iter_batches(ROWS, columns=columns)):
                yield from enumerate(batch.to_pylist(), start=1 + first * ROWS)
        except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"{path}: broken Parquet: {_first_line(error)}") from error


def _columns(place: str, names: Sequence[str], fields: Sequence[str]) -> list[str]:
    """The columns that hold the fields; ``a.b`` may lie within a."""
    found = []
    for field in fields:
        name = field if field in names else field.partition(".")[0]
        if name not in names:
            raise UserError(f"{place}: no field '{field}' among its columns{nearest(field, names)}")
        found.append(name)
    return list(dict.fromkeys(found))


def is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return any(all((path / name).is_file() for name in names) for names in MARKS)


def read_saved(path: Path) -> dict[str, Any]:
    """The splits of a folder written by ``save_to_disk``; a set without splits is one of the name train."""
    datasets = optional_module("datasets", "data", str(path))
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # of many kinds: missing files, broken JSON, broken Arrow
        raise UserError(f"{path}: broken saved set: {_first_line(error)}") from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def read_named(wanted: StoredSet) -> dict[str, Any]:
    """The splits of a set of the Hugging Face hub, or of a local script or folder, that a recipe names."""
    datasets = optional_module("datasets", "data", f"data.dataset.name: '{wanted.name}'")
    try:
        found = datasets.load_dataset(wanted.name, wanted.config, revision=wanted.revision)
    except Exception as error:  # of many kinds: no network, no such set, no such configuration
        raise UserError(f"data.dataset: '{wanted.name}' cannot be loaded: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"data.dataset: '{wanted.name}' has no splits")
    chosen = {"train": wanted.train, "dev": wanted.dev, "test": wanted.test}
    for split, usual in USUAL.items():
        chosen[split] = chosen[split] or next((name for name in usual if name in found), None)
    for name in filter(None, chosen.values()):
        if name not in found:
            raise UserError(f"data.dataset: '{wanted.name}' has no split '{name}'{nearest(name, found)}")
    return {split: found[name] for split, name in chosen.items() if name}


def set_rows(
    name: str, rows: Any, fields: Sequence[str], at: Callable[[int], object]
) -> Iterator[tuple[int, Row | ValueError]]:
    """The rows of a split of such a set; ``at`` hears how many are done."""
    columns = _columns(name, rows.column_names, fields)
    done = 0
    try:
        for batch in rows.select_columns(columns).with_format(None).iter(ROWS):
            for values in zip(*(batch[column] for column in columns), strict=True):
                done += 1
                yield done, dict(zip(columns, values, strict=True))
            at(done)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{name}:{done + 1}: cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
