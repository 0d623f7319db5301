"""Recipes: the typed settings of a run, read from YAML, and the objects that they describe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from s2s.config import Layer, merge, read_arguments, read_file
from s2s.data import Dataset, DataSettings, load
from s2s.data.batches import tokenise
from s2s.errors import UserError, nearest
from s2s.limits import check_slots, with_slots
from s2s.mitigations import MITIGATIONS, Composition, Materials, Mitigation, check
from s2s.model import ModelSettings, PrefixTransformer, pretrained
from s2s.model.architecture import from_scratch
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import OPTIMIZERS, SCHEDULES, AdamW
from s2s.optim.schedules import Linear
from s2s.search.method import SearchMethod
from s2s.search.methods import SEARCHES
from s2s.search.settings import SearchSettings
from s2s.seeds import seed_of
from s2s.settings import RunSettings
from s2s.vocabulary import Vocabulary, VocabularySettings, make

TABLES: dict[str, dict[str, Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "search": SEARCHES}
LISTS: dict[str, dict[str, Any]] = {"mitigations": MITIGATIONS}
SHIPPED = Path(__file__).resolve().parent.parent / "recipes"


@dataclass
class Recipe:
    """All settings of a run; the fields' classes are documented beside what they configure."""

    data: DataSettings = field(default_factory=DataSettings)
    vocabulary: VocabularySettings = field(default_factory=VocabularySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    mitigations: list[Any] = field(default_factory=list)  # rows of s2s.mitigations.MITIGATIONS, each with its ``name``
    heads: dict[str, Any] = field(default_factory=dict)  # none to choose from yet
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: Any = field(default_factory=AdamW)
    schedule: Any = field(default_factory=Linear)
    search: SearchMethod = field(default_factory=SearchSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.heads:
            raise UserError("heads: there are none to choose from yet; leave it empty")
        in_parts = self.run.processes * self.run.accumulate > 1
        names = [_name(MITIGATIONS, method) for method in self.mitigations]
        check(Composition(self.mitigations, in_parts, self.objective.label_smoothing), names)
        check_slots(self.model, self.data, self.search)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe by its name or path, with ``key=value`` overrides; order: defaults < base < recipe < overrides.

        Errors: a UserError that names the key, where it stands and the nearest valid one.
        """
        recipe = merge(
            cls, [*_layers(name_or_path), *(read_arguments([override]) for override in overrides)], TABLES, LISTS
        )
        assert isinstance(recipe, Recipe)
        return recipe

    def build(self) -> tuple[Vocabulary, Objective]:
        """The vocabulary and the objective, with the weights that training would start from."""
        vocabulary = self.build_vocabulary(load(self.data))
        objective, _ = self.build_objective(vocabulary)
        return vocabulary, objective

    def build_vocabulary(self, dataset: Dataset) -> Vocabulary:
        """The vocabulary for a data set's train split."""
        place = self.vocabulary.name or self.model.pretrained
        return make(self.vocabulary, place and pretrained.find(place), lambda: _texts(dataset))

    def build_objective(self, vocabulary: Vocabulary) -> tuple[Objective, list[str]]:
        """The untrained objective, a function of recipe and vocabulary, and lines on what a warm start matched."""
        model, report = self.build_model(vocabulary.size, vocabulary.keep)
        needed, positions = self.data.max_source + self.data.max_target, model.shape.positions
        if needed > positions:
            raise UserError(
                f"data.max_source: with max_target {needed} tokens, but the model has {positions} positions"
            )
        return self.objective_of(model, vocabulary), report

    def objective_of(self, model: PrefixTransformer, vocabulary: Vocabulary) -> Objective:
        """The objective of a model, with the recipe's methods and recomputation."""
        model.keep(self.run.checkpointing, self.run.checkpointing_every)
        return Objective(model, self.objective, self.build_mitigations(vocabulary))

    def build_mitigations(self, vocabulary: Vocabulary) -> list[tuple[str, Mitigation]]:
        """The methods, ready for use, with their names."""
        limits = self.data.max_source, self.data.max_target
        materials = Materials(
            vocabulary,
            lambda: tokenise(load(self.data).train, vocabulary, *limits, "train"),
            *limits,
        )
        methods = [(_name(MITIGATIONS, method), replace(method)) for method in self.mitigations]
        for _, method in methods:
            method.prepare(materials)
        return methods

    def build_model(self, size: int, keep: Sequence[int] | None) -> tuple[PrefixTransformer, list[str]]:
        """The untrained model for so many pieces, a checkpoint's cut to those to keep, and lines on what it matched."""
        settings = with_slots(self.model, self.data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.run.seed, "weights"))
            if settings.pretrained is None:
                model = PrefixTransformer(from_scratch(settings, size))
                initialise(model, settings.initialization)
                return model, []
            checkpoint = pretrained.read(settings, keep)
            if (rows := checkpoint.architecture.vocabulary) < size:
                raise UserError(f"vocabulary: {size} pieces, but '{self.model.pretrained}' has {rows} rows")
            model = PrefixTransformer(checkpoint.architecture)
            initialise(model, settings.initialization)
        model.load_state_dict(checkpoint.state, strict=False)
        return model, checkpoint.report

    def values(self) -> dict[str, Any]:
        """All settings as plain nested values, as a recipe file would hold them."""
        values = _plain(self)
        assert isinstance(values, dict)
        for section, table in TABLES.items():
            values[section] = {"name": _name(table, getattr(self, section)), **values[section]}
        for section, table in LISTS.items():
            values[section] = [{"name": _name(table, row), **_plain(row)} for row in getattr(self, section)]
        return values

    def to_yaml(self) -> str:
        """The merged recipe, which ``Recipe.load`` reads back as it is."""
        return OmegaConf.to_yaml(OmegaConf.create(self.values()))


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, each with both values."""
    mine, others = dict(_flat(ours.values())), dict(_flat(theirs.values()))
    keys = sorted(mine.keys() | others.keys())
    return [f"{key}: {others.get(key)} -> {mine.get(key)}" for key in keys if mine.get(key) != others.get(key)]


def _layers(name_or_path: str | Path) -> list[Layer]:
    recipe = read_file(_find(name_or_path))
    base = recipe.values.pop("base", None)
    if base is None:
        return [recipe]
    below = read_file(_find(str(base), Path(recipe.origin).parent))
    if "base" in below.values:
        raise UserError(f"{recipe.place('base')}: base '{base}' has a base of its own; one level only")
    return [below, recipe]


def _find(name_or_path: str | Path, beside: Path | None = None) -> Path:
    """A recipe's file: the path itself, or a name beside another recipe, in ./recipes or among the shipped ones."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"recipe '{path}': no such file")
    folders = [folder for folder in (beside, Path("recipes"), SHIPPED) if folder is not None]
    for folder in folders:
        if (file := folder / f"{name_or_path}.yaml").is_file():
            return file
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise UserError(
        f"recipe '{name_or_path}': not in {' or '.join(map(str, folders))}{nearest(str(name_or_path), names)}"
    )


def _texts(dataset: Dataset) -> Iterator[str]:
    for example in dataset.train:
        yield example.source
        yield example.target


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value


def _name(table: dict[str, Any], row: Any) -> str:
    """The name of the table's row that an object was made from."""
    return next(name for name, kind in table.items() if type(row) is kind)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key in LISTS:
            for index, row in enumerate(value):
                yield from _flat(row, f"{key}[{index}].")
        else:
            yield prefix + key, value
