"""Folders that are whole or not there: written under another name, with a manifest of their files."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from s2s.errors import UserError, first_line
from s2s.files.atomic import sync_files, sync_folder
from s2s.files.foreign import is_name, read_json

MANIFEST = "manifest.json"
BLOCK = 1 << 22
AGAIN = "copy it again from where it was whole"
"""The end of a message on a damaged file."""


def write_folder(final: Path, write: Callable[[Path], None]) -> Path:
    """Have a folder's files written, put them on the disk and give it its name, in the place of what had it.

    Errors: a UserError where it cannot be written; nothing is left of it then.
    """
    partial = final.with_suffix(".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        _seal(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(final.parent)
    except (OSError, SafetensorError, RuntimeError) as error:  # as the system, safetensors and torch.save say it
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{final}: cannot be written ({_reason(error)}); the checkpoint before it is whole") from error
    return final


def _reason(error: BaseException) -> str:
    """What the system said, if that is known: torch.save hides it behind an error of its own, safetensors in a text."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return first_line(error)


def _seal(folder: Path) -> None:
    """Write the manifest and put all on the disk."""
    manifest = {path.name: entry(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8", newline="\n")
    sync_files(folder)


def damage(folder: Path, needed: set[str]) -> str | None:
    """Say what is wrong with a folder that has to hold the needed files and those of its manifest, or return None."""
    try:
        manifest = read_json(folder / MANIFEST)
        if paths := [name for name in manifest if not is_name(name)]:
            return f"{MANIFEST} names {paths[0]!r}, which is no file of this folder"
        found = [(name, changed(folder / name, manifest[name])) for name in sorted(needed | set(manifest))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {_read_as(error)}"
    return ", ".join(f"{name} {change}" for name, change in found if change) or None


def _read_as(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return f"lacks {error}" if isinstance(error, KeyError) else "cut, empty or of something else"


def changed(path: Path, recorded: dict[str, Any]) -> str | None:
    """Say how a file differs from its line in a manifest, or return None."""
    size, digest = recorded["bytes"], recorded["sha256"]
    try:
        found = entry(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found["bytes"] < size:
        return f"has {found['bytes']} of {size} bytes" if found["bytes"] else "is empty"
    return None if found == {"bytes": size, "sha256": digest} else "changed since it was written"


def recorded_hash(path: Path) -> str:
    """The SHA-256 of a folder's file as its manifest has it."""
    try:
        return str(read_json(path.parent / MANIFEST)[path.name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.parent}: damaged ({MANIFEST}: {_read_as(error)}); {AGAIN}") from error


def entry(path: Path) -> dict[str, Any]:
    """Return a file's line in a manifest.

    A text's line ends count as line feeds, as git counts them: its checkouts may have others. What holds a zero byte
    is no text.
    """
    digest, size = sha256(), 0
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if b"\0" not in block:
            block = (block + file.read()).replace(b"\r\n", b"\n")
        while block:
            digest.update(block)
            size += len(block)
            block = file.read(BLOCK)
    return {"bytes": size, "sha256": digest.hexdigest()}


def entries(folder: Path, patterns: Sequence[str]) -> dict[str, Any]:
    """Return the lines of all files of a folder that fit the patterns, under their names with slashes."""
    found = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): entry(path) for path in found}
