"""A folder from elsewhere: nothing in it leads out of it, and its files are what their names say."""

import json
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from s2s.errors import UserError, first_line

RUN = (".lock", "recipe.yaml", "run.json", "log.jsonl", "weights.safetensors", "vocabulary", "checkpoints", "diagnosis")
"""What is read of a run's folder, or written there."""
CHECKPOINT = (".json", ".safetensors", ".bin", ".model", ".txt")
"""Ends of the names of files that are read of a checkpoint's folder."""
# fmt: off
FAILURES = (
    OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError, EOFError, KeyError, TypeError, AttributeError,
    ImportError,
)
# fmt: on
"""What transformers raises for a folder that is damaged, of another kind, or wants its own code to be run."""
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
"""Files of a tokenizer's folder with arguments for it; the others hold data."""
NAMES_FILE = re.compile(r"vocab|merges|.*_(?:file|path)s?")
"""Keys of a tokenizer's settings, at any depth, under which transformers or sentencepiece take a text for a path."""
WRITTEN_OUT = {"vocab", "merges"}
"""Such keys that hold the pieces themselves, or a path that nobody takes for one in the tokenizer's own folder; names
within other values are read from the working folder too."""
UNREAD = {"name_or_path", "_name_or_path", "special_tokens_map_file"}
"""Such keys that transformers writes itself, with paths of the machine that it ran on, and never opens."""
STARTS = {
    b"version https://git-lfs.": "a Git LFS pointer in the file's place; run git lfs pull there, or download the file",
    b"<!doctype html": "a web page in the file's place; download the file itself",
    b"<html": "a web page in the file's place; download the file itself",
}
"""What stands at the beginning of a file that came in another's place."""


def check_inside(folder: Path, parts: Iterable[str] = RUN) -> None:
    """Refuse a folder in which a link leads out of it, something is no file and no folder, or a file has not come.

    A hub's cache is one folder to whoever reads it: its snapshots consist of links to the blobs beside them.
    """
    root = folder.resolve()
    within = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    for path in _below(folder, parts):
        try:
            target, mode = path.resolve(strict=True), path.stat().st_mode
        except (OSError, RuntimeError):  # a link to nothing, or to itself: it is missed where it is needed
            continue
        if not any(target.is_relative_to(place) for place in within):
            raise UserError(
                f"{path}: a link that leads out of the folder, to {target}, and nothing outside of a folder is read "
                f"because the folder says so; in a copy by cp -rL files have the place of links"
            )
        if stat.S_ISREG(mode):
            check_content(path)
        elif not stat.S_ISDIR(mode):
            raise UserError(f"{path}: neither a file nor a folder; it is not read")


def check_checkpoint(folder: Path) -> None:
    """Refuse a checkpoint of ``transformers`` whose files lie elsewhere, or have not come."""
    names = [path.name for path in folder.iterdir() if path.suffix in CHECKPOINT]
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    check_inside(folder, [name for name in names if not (has_safetensors and name.endswith(".bin"))])
    check_tokenizer(folder)
    for index in (name for name in names if name.endswith(".index.json")):
        try:
            files = set(read_json(folder / index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / index}: it has no weight_map of names to files") from error
        if paths := sorted(str(name) for name in files if not is_name(name)):
            raise UserError(f"{folder / index}: names {paths[0]!r}, which is no file of this folder")


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer whose settings name files elsewhere, which transformers would read, or are none."""
    for path in (folder / name for name in SETTINGS if (folder / name).is_file()):
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
        for key, name, is_inner in _named(values):
            if not _is_within(folder, name):
                raise UserError(f"{path}: names {name!r}, which is no file of this folder")
            if is_inner or key in WRITTEN_OUT:
                raise UserError(f"{path}: {key} names {name!r}, which is read from the working folder; take it out")
        if path.name == "tokenizer_config.json":
            _check_settings(path, values)


def _check_settings(path: Path, values: Any) -> None:
    """Refuse settings of a tokenizer that transformers reads without a look at them."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: no settings of a tokenizer, which are an object")
    if values.get("init_inputs"):  # arguments without names, of which the first is a path
        raise UserError(f"{path}: init_inputs has arguments without names, and each may name a file; take it out")
    length = values.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise UserError(f"{path}: model_max_length is {str(length)[:40]!r}, and not a number")


def _named(values: Any) -> Iterator[tuple[str, object, bool]]:
    """Yield key and name of each file that settings name, at any depth, and whether it is named within a value."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key, named in value.items():
                if key not in UNREAD and NAMES_FILE.fullmatch(key):
                    yield from ((key, name, value is not values) for name in _texts(named, key))


def _texts(named: Any, key: str) -> Iterator[object]:
    """Yield the paths under a key; a vocabulary that is written out is no path."""
    if isinstance(named, str):
        yield named
    elif key not in WRITTEN_OUT:
        yield from named if isinstance(named, list) else [] if named is None else [named]


def _is_within(folder: Path, name: object) -> bool:
    return is_name(name) and (folder / str(name)).is_file()


def read_json(path: Path) -> Any:
    """Return what a JSON file of a folder holds.

    Errors: an OSError where it cannot be opened, a ValueError for anything else that is wrong with it.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Errors: a ValueError, for one that is nested too deeply too."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _below(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """Each path below some parts of a folder; links are not followed."""
    for part in parts:
        path = folder / part
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")


def is_name(name: object) -> bool:
    """Return whether a text is the name of a file in the same folder, and no path to another."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def check_content(path: Path) -> None:
    """Refuse a file in whose place a Git LFS pointer or a web page came."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    for known, meaning in STARTS.items():
        if start.startswith(known):
            raise UserError(f"{path}: {meaning}")
