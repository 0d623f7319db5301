"""Cache folders that exist whole or not at all; one process makes a folder while others wait for it."""

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

VERSION = 1  # part of every key: to be raised whenever the content of the files gets another meaning
META, PARTIAL = "meta.json", ".partial-"
STALE_SECONDS = 86_400
"""Age from which an unfinished folder counts as left by a killed process. Indexing takes hours at most, not a day."""


class CacheEntry(NamedTuple):
    """One folder of the cache: the cache's own folder, and the key that names the entry in it."""

    home: Path
    key: str

    @property
    def folder(self) -> Path:
        """The folder of the entry; it exists once the entry is made."""
        return self.home / self.key

    def below(self, *parts: Any) -> "CacheEntry":
        """Return the entry for something computed from this one and further inputs."""
        return CacheEntry(self.home, key_of(self.key, *parts))

    def meta(self) -> dict[str, Any] | None:
        """Return the metadata of the entry; None if it is missing, or a file of it is missing or has another size."""
        try:
            meta = read_json(self.folder / META)
            # Sizes find files that were cut short. Hashes would have to read all of the data at every start.
            whole = all((self.folder / name).stat().st_size == size for name, size in meta["sizes"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return dict(meta) if whole else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the entry's lock while it is looked up or made; wait if another process holds it."""
        with _writable(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.home / f".{self.key}.lock")
            lock.take(wait=True)
        try:
            yield
        finally:
            lock.free()


def key_of(*parts: Any) -> str:
    """Return a folder name for something computed from the parts, which must be JSON values."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:24]


class ScratchFolder:
    """A folder below ``home``, made with its first file; it becomes a cache entry or is removed at the end."""

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
        """Return the path of a file in the folder."""
        if self.folder is None:
            with _writable(self.home):
                self.home.mkdir(parents=True, exist_ok=True)
                _sweep(self.home)
                self.folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.home))
        return self.folder / name

    def keep(self, entry: CacheEntry, meta: dict[str, Any]) -> None:
        """Turn the folder, with the columns that stayed in memory, into a cache entry; all of it or nothing."""
        with _writable(self.home):
            for name in self.finished.keys() - self.spilled:
                self.finished[name].tofile(self.path(name))
            folder = self.path(META).parent
            sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
            # Written last: a folder without metadata is no entry, so an interrupted one is made again.
            write_atomically(folder / META, json.dumps(meta | {"sizes": sizes}))
            shutil.rmtree(entry.folder, ignore_errors=True)
            folder.replace(entry.folder)
            sync_folder(self.home)
            self.folder = None


def _sweep(home: Path) -> None:
    for folder in home.glob(f"{PARTIAL}*"):
        if time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _writable(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"data.cache: {home} cannot be written ({error.strerror}); a large set needs it") from error
