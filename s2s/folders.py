"""Folders that are whole or not there: written under another name, with a manifest of their files."""

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from s2s.disk import sync_folder
from s2s.errors import UserError

MANIFEST = "manifest.json"


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
    return str(error).splitlines()[0]


def _seal(folder: Path) -> None:
    """Write the manifest and put all on the disk."""
    manifest = {path.name: entry(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def damage(folder: Path, needed: set[str]) -> str | None:
    """What is wrong with a folder that has to hold the needed files and those of its manifest, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        broken = [name for name in sorted(needed | set(manifest)) if entry(folder / name) != manifest[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(broken)} changed since it was written" if broken else None


def recorded_hash(path: Path) -> str:
    """The SHA-256 of a folder's file as its manifest has it."""
    manifest = json.loads((path.parent / MANIFEST).read_text(encoding="utf-8"))
    return str(manifest[path.name]["sha256"])


def entry(path: Path) -> dict[str, Any]:
    """A file's line in a manifest."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
