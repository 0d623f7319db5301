"""A run folder: what is written there, atomically, and read back.

recipe.yaml       the merged recipe
vocabulary/       the vocabulary
run.json          architecture, data, kernel, threads and versions; written last, so a folder with it is complete
log.jsonl         a line a step
checkpoints/      see s2s.checkpoints
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2s import vocabulary as vocabularies
from s2s.errors import UserError
from s2s.model import Architecture
from s2s.recipe import Recipe
from s2s.vocabulary import Vocabulary


@dataclass(frozen=True)
class Facts:
    """What a run was started with and must go on with."""

    architecture: Architecture
    data: str  # the data set's fingerprint
    kernel: str  # which computes float32 products on CPU
    threads: int
    precision: str
    versions: dict[str, str]
    report: list[str]


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


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder alone; waits for another process that trains there. The lock ends with its process."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"{folder}: another process is training here; waiting until it ends")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def exists(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / "run.json").is_file()


def create(folder: Path, recipe: Recipe, vocabulary: Vocabulary, facts: Facts) -> None:
    """Write a new run's folder."""
    partial = folder / "vocabulary.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder / "vocabulary", ignore_errors=True)
    partial.mkdir()
    vocabularies.save(vocabulary, partial)
    partial.replace(folder / "vocabulary")
    write_atomically(folder / "recipe.yaml", recipe.to_yaml())
    write_atomically(folder / "run.json", json.dumps(asdict(facts), indent=1, ensure_ascii=False))


def read_facts(folder: Path) -> Facts:
    """The facts of a run."""
    values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return Facts(**(values | {"architecture": Architecture(**values["architecture"])}))


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run."""
    if not exists(folder):
        raise UserError(f"run '{folder}': no run there (no run.json)")
    return Recipe.load(folder / "recipe.yaml")


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a run."""
    return vocabularies.load(folder / "vocabulary")


def cut_log(folder: Path, step: int) -> None:
    """Drop what the log says of steps after ``step``, a half-written last line too."""
    path = folder / "log.jsonl"
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
    write_atomically(path, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    try:
        record: dict[str, Any] = json.loads(line)
        return float(record["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
