"""Files that are there whole or not at all, and where those lie that are slow to make."""

import os
from pathlib import Path


def cache_folder(asked: str | None = None) -> Path:
    """The folder that keeps what is slow to make: the one asked for, $S2S_CACHE or ~/.cache/s2s; it need not exist."""
    return Path(asked or os.environ.get("S2S_CACHE") or "~/.cache/s2s").expanduser()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text: whole or not at all, also after a power failure."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
