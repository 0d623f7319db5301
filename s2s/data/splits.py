"""The files of each split: listed in the recipe, or found by their names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from s2s.data.readers import FORMATS, kind_of
from s2s.data.settings import DataSettings, root_folder
from s2s.errors import UserError, nearest
from s2s.files.paths import at_home

SPLITS = ("train", "dev", "test")
STEMS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
PIECE = r"[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]{16})?"
FILE_NAME = re.compile(rf"({'|'.join(STEMS)})({PIECE})?\.({'|'.join(FORMATS)})(\.gz)?")
"""``train.jsonl``, or a piece: ``train-00000.parquet``, ``train-00000-of-00012.parquet``, ``train_3.csv.gz``."""
PATTERN = re.compile(r"[*?\[]")

Files = dict[str, list[Path]]


def locate(data: DataSettings) -> Path:
    """Return the file or folder at ``data.path``; a pattern need not exist, nor the root of files that are listed."""
    root = root_folder(data)
    path = root / at_home(data.path or "")
    if data.path is None or path.exists() or PATTERN.search(path.name):
        return path
    if not path.parent.is_dir():
        raise UserError(f"data.path: {path} is missing, and so is its folder (root: {root})")
    raise UserError(f"data.path: {path} is missing (root: {root}){_alike(path)}")


def _alike(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()]
    closest = get_close_matches(path.name, siblings, n=10, cutoff=0)
    return nearest(path.name, closest) if closest else "; its folder is empty"


def split_files(data: DataSettings, splits: Sequence[str] = SPLITS) -> Files:
    """Return the files of each of the ``splits``, in reading order; files of other splits are not looked at."""
    path = locate(data)
    listed = {"train": data.train_files, "dev": data.dev_files, "test": data.test_files}
    if any(listed.values()):
        if not data.train_files:
            raise UserError("data.train_files: there are none, but dev_files or test_files; train needs some")
        return {split: _matching(path, listed[split], f"data.{split}_files") for split in splits if listed[split]}
    if not path.exists():
        return {"train": _matching(path.parent, [path.name], "data.path")}
    return {"train": [_known(path)]} if path.is_file() else _by_name(path, splits)


def _matching(folder: Path, names: Iterable[str], key: str) -> list[Path]:
    """Return the files of names and patterns, those of a pattern in natural order."""
    files: list[Path] = []
    for name in names:
        pattern = folder / at_home(name)
        matches = [pattern] if pattern.exists() else sorted(_glob(pattern), key=_natural)
        if not matches:
            raise UserError(f"{key}: no file fits {pattern}")
        files += matches
    if twice := [path for path, count in Counter(files).items() if count > 1]:
        raise UserError(f"{key}: {twice[0]} is listed twice")
    return [_known(path) for path in files]


def _glob(pattern: Path) -> list[Path]:
    parts = pattern.parts
    first = next((index for index, part in enumerate(parts) if PATTERN.search(part)), None)
    if first is None:
        return []
    return [path for path in Path(*parts[:first]).glob("/".join(parts[first:])) if path.is_file()]


def _known(path: Path) -> Path:
    if kind_of(path) not in FORMATS:
        kinds = ", ".join(f".{kind}" for kind in FORMATS)
        raise UserError(f"{path}: unknown kind of file; valid: {kinds}, each with or without .gz")
    return path


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts part-2 before part-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _by_name(folder: Path, splits: Sequence[str]) -> Files:
    """Return the files of a folder whose names say their split: one file each, or its numbered pieces."""
    files: Files = {}
    for entry in sorted(folder.iterdir(), key=_natural):
        match = FILE_NAME.fullmatch(entry.name)
        if match and STEMS[match[1]] in splits:
            others = files.setdefault(STEMS[match[1]], [])
            # Pieces join, but train.jsonl next to train.csv may be the same data twice.
            if others and not (match[2] and _sort(others[0]) == _sort(entry)):
                raise UserError(f"{folder}: two files for one split: {others[0].name} and {entry.name}")
            others.append(entry)
    if "train" not in files:
        kinds = ", ".join(f"train.{kind}" for kind in FORMATS)
        raise UserError(f"{folder}: no train file; one of {kinds} (each also with .gz) is needed, or numbered pieces")
    return {split: files[split] for split in splits if split in files}


def _sort(path: Path) -> tuple[str | None, ...]:
    """Return the properties that all pieces of a split share: stem, whether they are pieces, and kind."""
    match = FILE_NAME.fullmatch(path.name)
    assert match is not None
    return match[1], "piece" if match[2] else None, match[3]
