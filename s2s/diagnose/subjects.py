"""The subjects of a diagnosis: runs in evaluation mode, the same examples for all of them, and their oracles."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

from s2s.config.outside_names import unmarked
from s2s.data import Dataset, DataSettings, Example, load
from s2s.data.batches import tokenise
from s2s.data.dataset import TRAINED, fingerprint, is_same
from s2s.data.splits import SPLITS
from s2s.data.synthetic import Transduction
from s2s.data.user_files import read
from s2s.diagnose.corruptions import seen
from s2s.diagnose.oracle import Oracle, model_oracle, task_oracle
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.traces import Pair
from s2s.errors import UserError
from s2s.files.foreign import check_inside
from s2s.randomness import seed_of
from s2s.runs import run_folder
from s2s.runs.metadata import read_metadata
from s2s.runs.run import Run
from s2s.runs.run import load as load_run
from s2s.vocabulary.base import same_pieces

RECIPE = "recipe"
"""The value of ``data`` with which a caller asks for the data that the first run's recipe names."""


class Examples(NamedTuple):
    """Pairs of texts, their hash, where they come from, and lines on what was left out."""

    pairs: list[Example]
    fingerprint: str
    origin: str
    report: list[str]


class Truth(NamedTuple):
    """An oracle of a run's task; it is exact where it is the true distribution."""

    oracle: Oracle
    name: str
    exact: bool
    identity: str  # differs from those of all other oracles


class Subject(NamedTuple):
    """A run, the examples as its ids, the corruptions that it was trained on, its oracle, and lines on what was cut."""

    run: Run
    pairs: list[Pair]
    seen: frozenset[str]
    truth: Truth | None
    report: list[str]


def choose(settings: DiagnosisSettings) -> Examples:
    """Read the examples from a file or from the first run's own data, and draw from them by the seed if they are many.

    Raises ``UserError`` for a file that cannot be read, and where runs were trained on other data than the first.
    """
    first = settings.folders[0]
    for folder in settings.folders:
        check_inside(folder)
    # All recipes are read before any data, so that a missing run is reported at once.
    recipes = [run_folder.read_recipe(folder) for folder in settings.folders]
    data = recipes[0].data
    if any(recipe.data.target_field is None for recipe in recipes):
        raise UserError("run: a run without targets has nothing to generate, and so no exposure bias")
    if settings.data is None:
        # A recipe may come from elsewhere, so its paths are read only when the caller asks for it.
        trained_on = data.source or data.path or data.dataset.name or "files"
        raise UserError(
            f"data: missing; give data=FILE, or data=recipe to read what {first} says that it was trained on, "
            f"{str(trained_on)!r}"
        )
    report: list[str] = []
    pairs: Sequence[Example]
    if settings.data == RECIPE:
        # The caller has asked for this data by name, so its paths are no longer a stranger's.
        data, origin = unmarked(data), f"{first}, {settings.split}"
        dataset = load(data, splits=TRAINED if settings.split == "dev" else SPLITS)
        _check_same_data(settings.folders, dataset, data)
        pairs = {"test": dataset.test, "dev": dataset.dev}[settings.split]
        if not pairs:
            split = settings.split
            raise UserError(f"split: the data of {first} have no {split} examples; give split=dev or data=FILE")
    else:
        pairs, report = read(Path(settings.data), (data.source_field, data.target_field), data.on_error)
        origin = settings.data
    chosen = list(pairs)
    if len(pairs) > settings.examples:
        numbers = Random(seed_of(settings.seed, "diagnosis")).sample(range(len(pairs)), settings.examples)
        # In the order of the file, so that a reader of the report finds them there again.
        chosen = [pairs[number] for number in sorted(numbers)]
        report = [*report, f"{len(chosen)} of {len(pairs)} examples, drawn with seed {settings.seed}"]
    return Examples(chosen, fingerprint({"test": chosen}), origin, report)


def _check_same_data(runs: Sequence[Path], dataset: Dataset, data: DataSettings) -> None:
    for folder in runs:
        if not is_same(trained := read_metadata(folder).data, dataset, data):
            raise UserError(
                f"run: {folder} was trained on the data {trained}, and the settings of {runs[0]} now read "
                f"{dataset.fingerprint}; give data=FILE to measure on one file"
            )


def prepare(folder: Path, examples: Examples, oracles: Sequence[Path] = ()) -> Subject:
    """Load a run, and encode the examples in its own ids, cut to the lengths that it was trained for."""
    run = load_run(folder)
    data = run.recipe.data
    tokens = tokenise(examples.pairs, run.vocabulary, data.max_source, data.max_target, str(folder))
    pairs: list[Pair] = list(zip(tokens.sources, tokens.targets, strict=True))
    assert len(pairs) == len(examples.pairs)
    return Subject(run, pairs, seen(run.recipe.mitigations), _truth(run, oracles), tokens.report)


def _truth(run: Run, folders: Sequence[Path]) -> Truth | None:
    """Return the mean of the runs in these folders if there are any, else the run's task if it is a synthetic one.

    Raises ``UserError`` where an oracle has another vocabulary than the run.
    """
    if not folders:
        data = run.recipe.data
        if data.source != "synthetic":
            return None
        return Truth(
            task_oracle(Transduction(**vars(data.task)), run.vocabulary), "the task itself", True, f"task {data.task}"
        )
    runs = [load_run(folder) for folder in folders]
    # Equal sizes are not enough: the mean adds up probabilities id by id.
    for other in runs:
        if not same_pieces(run.vocabulary, other.vocabulary):
            raise UserError(f"oracle: {other.folder} has another vocabulary than {run.folder}")
    identity = ",".join(weights_hash(other) for other in runs)
    name = f"the mean of {', '.join(map(str, folders))}"
    return Truth(model_oracle([other.model for other in runs], run.vocabulary), name, False, identity)


def weights_hash(run: Run) -> str:
    """Return the SHA-256 of a run's architecture and weights."""
    digest = sha256(repr(run.model.shape).encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()
