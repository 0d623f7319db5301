"""Folders of a cache that are there whole or not at all, each made by one process while the others wait."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy
from numpy.typing import NDArray

from s2s.errors import UserError
from s2s.files.atomic import sync_folder, write_atomically
from s2s.files.foreign import read_json
from s2s.files.locks import Lock

VERSION = 1  # Part of every key: to be raised whenever the files below mean something else.
META, PARTIAL, STALE_SECONDS = "meta.json", ".partial-", 86_400


class CacheEntry(NamedTuple):
    """Where what is slow to make is kept, and the key of one thing there."""

    home: Path
    key: str

    @property
    def folder(self) -> Path:
        """The folder of the thing, once it is made."""
        return self.home / self.key

    def below(self, *parts: Any) -> "CacheEntry":
        """The place of something that is made of this and further parts."""
        return CacheEntry(self.home, key_of(self.key, *parts))

    def meta(self) -> dict[str, Any] | None:
        """What is noted about the thing, or None if it or one of its files is not there as it was left."""
        try:
            found = read_json(self.folder / META)
            whole = all((self.folder / name).stat().st_size == size for name, size in found["sizes"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return dict(found) if whole else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the place while the thing is looked for or made; waits for another process that does so."""
        with _writable(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.home / f".{self.key}.lock")
            lock.take(wait=True)
        try:
            yield
        finally:
            lock.free()


def key_of(*parts: Any) -> str:
    """A name for what is made of the parts, which must be writable as JSON."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:24]


class ScratchFolder:
    """A folder below ``home`` that is made when the first file is; it goes to a shelf or vanishes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder: Path | None = None
        self.spilled = set[str]()
        self.finished: dict[str, NDArray[numpy.generic]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where a file of that name lies."""
        if self.folder is None:
            with _writable(self.home):
                self.home.mkdir(parents=True, exist_ok=True)
                _sweep(self.home)
                self.folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.home))
        return self.folder / name

    def keep(self, shelf: CacheEntry, meta: dict[str, Any]) -> None:
        """Put the folder on the shelf, with the columns that stayed in memory; all of it or nothing."""
        with _writable(self.home):
            for name in self.finished.keys() - self.spilled:
                self.finished[name].tofile(self.path(name))
            folder = self.path(META).parent
            sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
            write_atomically(folder / META, json.dumps(meta | {"sizes": sizes}))
            shutil.rmtree(shelf.folder, ignore_errors=True)
            folder.replace(shelf.folder)
            sync_folder(self.home)
            self.folder = None


def _sweep(home: Path) -> None:
    """Remove what killed processes have left half-written a day ago or earlier."""
    for folder in home.glob(f"{PARTIAL}*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writable(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"data.cache: {home} cannot be written ({error.strerror}); a large set needs it") from error
