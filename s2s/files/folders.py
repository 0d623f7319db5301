"""Folders with a manifest of sizes and hashes, by which a damaged or changed file is noticed before it is used."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from s2s.errors import UserError, first_line
from s2s.files.atomic import replaced_folder
from s2s.files.foreign import is_name, read_json

MANIFEST = "manifest.json"
BLOCK = 1 << 22
AGAIN = "copy it again from where it was whole"
"""The end of an error message on a damaged file."""


def write_folder(final: Path, write: Callable[[Path], None], known: Mapping[str, Any] | None = None) -> Path:
    """Let ``write`` fill a folder, add a manifest, and put it in place of the folder ``final``, whole or not at all.

    Several processes may have filled it before, in the folder of ``begin_folder``; the entries of their files are
    ``known`` then. Errors: a UserError where it cannot be written; nothing of it remains then.
    """
    entries = known or {}
    with unwritable(final), replaced_folder(final, begun=known is not None) as partial:
        write(partial)
        manifest = {path.name: entries.get(path.name) or entry(path) for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8", newline="\n")
    return final


@contextmanager
def unwritable(final: Path) -> Iterator[None]:
    """Turn the errors of writing a checkpoint's folder into a UserError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # of the system, safetensors and torch.save
        raise UserError(f"{final}: cannot be written ({_reason(error)}); the checkpoint before it is whole") from error


def _reason(error: BaseException) -> str:
    """Return the system's own reason: safetensors has its number in a text, torch.save hides it as a cause."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return os.strerror(int(number[1]))
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return first_line(error)


def damage(folder: Path, needed: set[str]) -> str | None:
    """Return the damage to a folder, as text: among the ``needed`` files or those of its manifest; None if it is whole.

    A manifest from elsewhere may name any path; only names of files in the folder are followed.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        if paths := [name for name in manifest if not is_name(name)]:
            return f"{MANIFEST} names {paths[0]!r}, which is no file of this folder"
        changes = [(name, changed(folder / name, manifest[name])) for name in sorted(needed | set(manifest))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {_fault(error)}"
    return ", ".join(f"{name} {change}" for name, change in changes if change) or None


def _fault(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return f"lacks {error}" if isinstance(error, KeyError) else "cut, empty or of something else"


def changed(path: Path, recorded: dict[str, Any]) -> str | None:
    """Return how a file differs from its entry in a manifest, as text, or None where it does not."""
    size, digest = recorded["bytes"], recorded["sha256"]
    try:
        now = entry(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if now["bytes"] < size:
        return f"has {now['bytes']} of {size} bytes" if now["bytes"] else "is empty"
    return None if now == {"bytes": size, "sha256": digest} else "changed since it was written"


def recorded_hash(path: Path) -> str:
    """Return a file's SHA-256 from the manifest of its folder, without reading the file."""
    try:
        return str(read_json(path.parent / MANIFEST)[path.name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.parent}: damaged ({MANIFEST}: {_fault(error)}); {AGAIN}") from error


def entry(path: Path) -> dict[str, Any]:
    """Return a file's entry in a manifest: its size and SHA-256, those of a text with line feeds as line ends.

    Git may check texts out with other line ends. Like git, a file with a zero byte near its beginning is no text.
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
    """Return the entries of all files of a folder that match the patterns, by their paths with slashes."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): entry(path) for path in paths}
