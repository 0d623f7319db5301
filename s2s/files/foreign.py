"""Checks of a folder from elsewhere: nothing in it leads out of it, and its files are what their names say."""

import json
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from s2s.errors import UserError, first_line

RUN_PARTS = (
    ".lock",
    "recipe.yaml",
    "run.json",
    "log.jsonl",
    "weights.safetensors",
    "base.safetensors",
    "vocabulary",
    "checkpoints",
    "diagnosis",
)
"""The files and folders of a run that are read or written."""
CHECKPOINT_ENDINGS = (".json", ".safetensors", ".bin", ".model", ".txt")
"""Endings of the files that are read of a checkpoint's folder."""
# fmt: off
FAILURES = (
    OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError, EOFError, KeyError, TypeError, AttributeError,
    ImportError,
)
# fmt: on
"""The exceptions of transformers for a folder that is damaged, of another kind, or wants its own code to be run."""
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
"""Files of a tokenizer's folder that hold its arguments; the others hold data."""
PATH_KEYS = re.compile(r"vocab|merges|.*_(?:file|path)s?")
"""Keys of a tokenizer's settings, at any depth, under which transformers or sentencepiece take a text for a path."""
PIECES_KEYS = {"vocab", "merges"}
"""Those of the path keys that usually hold the pieces themselves. A path under them is read from the working folder,
not from the tokenizer's own; so are paths within other values."""
UNREAD_KEYS = {"name_or_path", "_name_or_path", "special_tokens_map_file"}
"""Those of the path keys that transformers writes, with paths of the machine that it ran on, and never reads."""
POINTER, PAGES = b"version https://git-lfs.", (b"<!doctype html", b"<html")
"""First bytes, in lower case, of files that a download has put in the place of the wanted one."""


def check_inside(folder: Path, parts: Iterable[str] = RUN_PARTS) -> None:
    """Refuse parts of a folder that are links out of it, neither files nor folders, or files that were not downloaded.

    Errors: a UserError with the path.
    """
    root = folder.resolve()
    # In a hub's cache, the files of a snapshot are links to the folder of blobs next to the snapshots.
    within = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    for path in _below(folder, parts):
        try:
            target, mode = path.resolve(strict=True), path.stat().st_mode
        except (OSError, RuntimeError):  # a link to nothing or to itself is an error only for who needs the file
            continue
        if not any(target.is_relative_to(allowed) for allowed in within):
            raise UserError(
                f"{path}: a link that leads out of the folder, to {target}, and nothing outside of a folder is read "
                f"because the folder says so; in a copy by cp -rL files have the place of links"
            )
        if stat.S_ISREG(mode):
            _check_content(path)
        elif not stat.S_ISDIR(mode):
            raise UserError(f"{path}: neither a file nor a folder; it is not read")


def check_checkpoint(folder: Path) -> None:
    """Refuse a checkpoint of ``transformers`` with files outside of its folder, or files that were not downloaded."""
    names = [path.name for path in folder.iterdir() if path.suffix in CHECKPOINT_ENDINGS]
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
    """Refuse a tokenizer whose settings name files outside of its folder, which transformers would read."""
    for path in (folder / name for name in TOKENIZER_SETTINGS if (folder / name).is_file()):
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
        for key, name, is_nested in _named_files(values):
            if not (is_name(name) and (folder / str(name)).is_file()):
                raise UserError(f"{path}: names {name!r}, which is no file of this folder")
            if is_nested or key in PIECES_KEYS:
                raise UserError(f"{path}: {key} names {name!r}, which is read from the working folder; take it out")
        if path.name == "tokenizer_config.json":
            _check_settings(path, values)


def _check_settings(path: Path, values: Any) -> None:
    """Refuse settings of a tokenizer that transformers would use unchecked."""
    if not isinstance(values, dict):
        raise UserError(f"{path}: no settings of a tokenizer, which are an object")
    if values.get("init_inputs"):  # positional arguments, the first of which is a path
        raise UserError(f"{path}: init_inputs has arguments without names, and each may name a file; take it out")
    length = values.get("model_max_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise UserError(f"{path}: model_max_length is {str(length)[:40]!r}, and not a number")


def _named_files(values: Any) -> Iterator[tuple[str, object, bool]]:
    """Yield key and name of each file that settings name, at any depth, and whether it is nested in another value."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key, named in value.items():
                if key in UNREAD_KEYS or not PATH_KEYS.fullmatch(key) or named is None:
                    continue
                if isinstance(named, str) or key not in PIECES_KEYS:  # other values of those are the pieces
                    yield from (
                        (key, name, value is not values) for name in (named if isinstance(named, list) else [named])
                    )


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Errors: an OSError where it cannot be opened, else a ValueError."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Errors: a ValueError, also for a text that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _below(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """Yield the parts of a folder and each path below them; links are not followed."""
    for part in parts:
        path = folder / part
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")


def is_name(name: object) -> bool:
    """Return whether a value is the name of a file in the same folder, and no path to another."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def _check_content(path: Path) -> None:
    """Refuse a Git LFS pointer, and a web page in a file whose name says that it is something else."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(POINTER):
        raise UserError(f"{path}: a Git LFS pointer in the file's place; run git lfs pull there, or download the file")
    if start.startswith(PAGES) and path.suffix != ".html":
        raise UserError(f"{path}: a web page in the file's place; download the file itself")
