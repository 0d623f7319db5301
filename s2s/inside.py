"""A folder from elsewhere: nothing in it leads out of it, and its files are what their names say."""

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from s2s.errors import UserError

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
    names = [
        path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")
    ]
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    check_inside(folder, [name for name in names if not (has_safetensors and name.endswith(".bin"))])
    check_tokenizer(folder)
    for index in (name for name in names if name.endswith(".index.json")):
        try:
            files = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / index}: it has no weight_map of names to files") from error
        if paths := sorted(str(name) for name in files if not is_name(name)):
            raise UserError(f"{folder / index}: names {paths[0]!r}, which is no file of this folder")


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer whose settings name files elsewhere; transformers would read them."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    try:
        files = json.loads(path.read_text(encoding="utf-8")).get("fast_tokenizer_files") or []
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: no settings of a tokenizer") from error
    if paths := [str(name) for name in files if not is_name(name)]:
        raise UserError(f"{path}: names {paths[0]!r}, which is no file of this folder")


def _below(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """Each path below some parts of a folder; links are not followed."""
    for part in parts:
        path = folder / part
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from path.rglob("*")


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, or the error's kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
