"""Shared by the commands that prepare public sets."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from s2s.console.outputs import check_output_files
from s2s.files.atomic import write_atomically

Rows = Sequence[Mapping[str, object]]
SPLITS = ("train", "dev", "test")


def check_splits(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuse a folder where the splits cannot be written, or where one of them is what is read."""
    check_output_files("OUTPUT", folder, [f"{split}.jsonl" for split in SPLITS], inputs)


def write_splits(folder: Path, splits: Mapping[str, Rows]) -> None:
    """Write a file of JSON lines for each split that has rows, each whole or not at all, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        if rows:
            path = folder / f"{split}.jsonl"
            write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            print(f"{path}: {len(rows)} rows")
