"""What is measured: runs in evaluation mode, and the same examples for all of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

from s2s.config.outside_names import unmarked
from s2s.data import Dataset, DataSettings, Example, load
from s2s.data.batches import tokenise
from s2s.data.dataset import TRAINED, fingerprint, is_same
from s2s.data.splits import SPLITS
from s2s.data.user_files import read
from s2s.diagnose.corruptions import seen
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.traces import Pair
from s2s.diagnose.truths import Truth, truth_of
from s2s.errors import UserError
from s2s.files.foreign import check_inside
from s2s.randomness import seed_of
from s2s.runs import run_folder
from s2s.runs.metadata import read_metadata
from s2s.runs.run import Run
from s2s.runs.run import load as load_run

RECIPE = "recipe"
"""The value of ``data`` by which a caller lets the data be read that the first run's recipe names."""


class Examples(NamedTuple):
    """Pairs of texts, the hash of them, where they are from, and lines on what was left out."""

    pairs: list[Example]
    fingerprint: str
    origin: str
    report: list[str]


class Subject(NamedTuple):
    """A run, the examples as its ids, what it has seen in training, its oracle, and lines on what was cut."""

    run: Run
    pairs: list[Pair]
    seen: frozenset[str]
    truth: Truth | None
    report: list[str]


def choose(settings: DiagnosisSettings) -> Examples:
    """The examples: of a file, or of the first run's own data; drawn by the seed where there are more than asked for.

    Raises ``UserError`` for a file that cannot be read, and where runs were trained on other data than the first.
    """
    first = settings.folders[0]
    for folder in settings.folders:
        check_inside(folder)
    recipes = [
        run_folder.read_recipe(folder) for folder in settings.folders
    ]  # all, so that a missing one is found first
    data = recipes[0].data
    if any(recipe.data.target_field is None for recipe in recipes):
        raise UserError("run: a run without targets has nothing to generate; exposure bias is of those that do")
    if settings.data is None:
        trained_on = data.source or data.path or data.dataset.name or "files"
        raise UserError(
            f"data: missing; give data=FILE, or data=recipe to read what {first} says that it was trained on, "
            f"{str(trained_on)!r}"
        )
    if settings.data == RECIPE:
        data = unmarked(data)
        dataset = load(data, splits=TRAINED if settings.split == "dev" else SPLITS)
        _check_same_data(settings.folders, dataset, data)
        pairs, origin, report = _split(dataset, settings.split, first), f"{first}, {settings.split}", list[str]()
    else:
        pairs, report = read(Path(settings.data), (data.source_field, data.target_field), data.on_error)
        origin = settings.data
    chosen = _draw(pairs, settings.examples, settings.seed)
    if len(chosen) < len(pairs):
        report = [*report, f"{len(chosen)} of {len(pairs)} examples, drawn with seed {settings.seed}"]
    return Examples(chosen, fingerprint({"test": chosen}), origin, report)


def prepare(folder: Path, examples: Examples, oracles: Sequence[Path] = ()) -> Subject:
    """A run and the examples in its own ids, cut to the lengths that it was trained for."""
    run = load_run(folder)
    data, count = run.recipe.data, len(examples.pairs)
    tokens = tokenise(examples.pairs, run.vocabulary, data.max_source, data.max_target, str(folder))
    pairs: list[Pair] = list(zip(tokens.sources, tokens.targets, strict=True))
    assert len(pairs) == count
    return Subject(run, pairs, seen(run.recipe.mitigations), truth_of(run, oracles), tokens.report)


def _split(dataset: Dataset, split: str, folder: Path) -> Sequence[Example]:
    found = {"test": dataset.test, "dev": dataset.dev}[split]
    if not found:
        raise UserError(f"split: the data of {folder} have no {split} examples; give split=dev or data=FILE")
    return found


def _check_same_data(runs: Sequence[Path], dataset: Dataset, data: DataSettings) -> None:
    for folder in runs:
        if not is_same(trained := read_metadata(folder).data, dataset, data):
            raise UserError(
                f"run: {folder} was trained on the data {trained}, and the settings of {runs[0]} now read "
                f"{dataset.fingerprint}; give data=FILE to measure on one file"
            )


def _draw(pairs: Sequence[Example], most: int, seed: int) -> list[Example]:
    if len(pairs) <= most:
        return list(pairs)
    chosen = Random(seed_of(seed, "diagnosis")).sample(range(len(pairs)), most)
    return [pairs[index] for index in sorted(chosen)]


def same_method(ours: Run, theirs: Run) -> bool:
    """Whether two runs differ in nothing but their seeds and folders."""
    return _method(ours) == _method(theirs)


def _method(run: Run) -> str:
    return replace(run.recipe, run=replace(run.recipe.run, seed=0, folder="any")).to_yaml()
