"""A run folder: what is written there, atomically, and read back.

recipe.yaml       the merged recipe
vocabulary/       the vocabulary
run.json          architecture, data, kernel, threads and versions; written last, so a folder with it is complete
log.jsonl         a line a step
curves.svg        a picture of it
trackers/         what run.trackers write
checkpoints/      see s2s.checkpoints
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2s import vocabulary as vocabularies
from s2s.disk import write_atomically
from s2s.errors import UserError
from s2s.facts import FILE, Facts, write_facts
from s2s.recipe import Recipe
from s2s.vocabulary import Vocabulary


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder alone; waits for another process that trains there. The lock ends with its process."""
    with (folder / ".lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"{folder}: another process is training here; waiting until it ends")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def exists(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / FILE).is_file()


def create(folder: Path, recipe: Recipe, vocabulary: Vocabulary, facts: Facts) -> None:
    """Write a new run's folder."""
    partial = folder / "vocabulary.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder / "vocabulary", ignore_errors=True)
    partial.mkdir()
    vocabularies.save(vocabulary, partial)
    partial.replace(folder / "vocabulary")
    write_atomically(folder / "recipe.yaml", recipe.to_yaml())
    write_facts(folder, facts)


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a run, as data: see ``Recipe.read``."""
    if not exists(folder):
        raise UserError(f"run '{folder}': no run there (no run.json)")
    return Recipe.read(folder / "recipe.yaml")


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
