"""A run's folder: its files are written atomically here, and read back.

recipe.yaml       the merged recipe
vocabulary/       the vocabulary
run.json          architecture, data, kernel, threads and versions; size and SHA-256 of the files above; written last,
                  so a folder with it is complete
base.safetensors  the frozen weights of a run under LoRA
log.jsonl         one line per step
curves.svg        a picture of it
trackers/         the files of run.trackers
checkpoints/      see s2s.runs.checkpoints
"""

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from s2s import vocabulary as vocabularies
from s2s.console.terminal import Log
from s2s.errors import UserError
from s2s.files import locks
from s2s.files.atomic import naming, replaced_folder, write_atomically
from s2s.files.folders import AGAIN, changed
from s2s.recipe.recipe import Recipe
from s2s.runs.log import LOG
from s2s.runs.metadata import FILE, RECIPE, VOCABULARY, RunMetadata, check_files, read_metadata, write_metadata
from s2s.vocabulary import Vocabulary

logger = logging.getLogger("s2s")


def locked(folder: Path, log: Log) -> AbstractContextManager[object]:
    """Lock the folder; wait for another process that trains there."""
    message = f"{folder}: another process is training here; waiting until it ends"
    return locks.locked(folder / ".lock", lambda: log(message))


def exists(folder: Path) -> bool:
    """Say whether the folder holds a run."""
    return (folder / FILE).is_file()


def check_new(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder without a run where a new one would take the place of somebody's files.

    The same recipe may be there already, as recipe.yaml; so may files of a creation that was killed.
    """
    text = recipe.to_yaml().encode()
    marks = {
        folder / RECIPE: lambda path: path.read_bytes() == text,
        folder / VOCABULARY: lambda path: (path / vocabularies.KIND_FILE).is_file(),
        folder / LOG: lambda path: not path.stat().st_size,
    }
    for path, is_of_run in marks.items():
        if path.exists() and not is_of_run(path):
            raise UserError(f"run.folder: {path} is not of a run and would be lost; name a folder of the run's own")


def check_links(folder: Path) -> None:
    """Refuse links that lead out of a run's folder where training writes: whoever made the folder chose their targets.

    A link of the folder's own ``checkpoints``, to a larger disk, is the user's and stays.
    """
    for name in (RECIPE, FILE, LOG, "curves.svg"):
        path = folder / name
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: a link that leads out, to {path.resolve()}, where training would write")


def create(folder: Path, recipe: Recipe, vocabulary: Vocabulary, metadata: RunMetadata) -> None:
    """Write a new run's folder."""
    with naming(folder / VOCABULARY), replaced_folder(folder / VOCABULARY) as partial:
        vocabularies.save(vocabulary, partial)
    write_atomically(folder / RECIPE, recipe.to_yaml())
    write_metadata(folder, metadata)


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a run, as data: see ``Recipe.read``."""
    if not exists(folder):
        raise UserError(f"run '{folder}': no run there (no run.json)")
    return Recipe.read(folder / RECIPE)


def read_vocabulary(folder: Path, metadata: RunMetadata) -> Vocabulary:
    """Read the vocabulary of a run with this metadata, and refuse another than the run was trained with."""
    check_files(folder, metadata, f"{VOCABULARY}/")
    vocabulary = vocabularies.load(folder / VOCABULARY)
    if vocabulary.size > metadata.architecture.vocabulary:
        raise UserError(
            f"{folder / VOCABULARY}: {vocabulary.size} pieces, but {FILE} has a model of "
            f"{metadata.architecture.vocabulary}; one of both is another run's: {AGAIN}"
        )
    return vocabulary


def read(folder: Path) -> tuple[Recipe, RunMetadata]:
    """Return the recipe and the metadata of a run; warn of a recipe that is not as training wrote it.

    People may edit a recipe, so that it is read all the same, unless its end is missing.
    """
    if not exists(folder):
        raise UserError(f"run '{folder}': no run there (no run.json)")
    metadata, path = read_metadata(folder), folder / RECIPE
    if RECIPE in metadata.files and (change := changed(path, metadata.files[RECIPE])) is not None:
        if not path.is_file() or not path.read_bytes().endswith(b"\n"):
            raise UserError(f"{path}: {change}; {AGAIN}")
        logger.warning("%s: edited or of another run, not as training wrote it; it is read as it is", path)
    return read_recipe(folder), metadata
