"""Recipes: the typed settings of a run, read from YAML and written to it. ``s2s.recipe.build`` makes what they say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from s2s.config import merge, outside_names, read_arguments, read_file, read_text
from s2s.config.merge import Schema, name_of
from s2s.config.recipe_files import completed, recipe_layers
from s2s.data import DataSettings
from s2s.errors import UserError, first_line
from s2s.heads import HEADS
from s2s.mitigations import MITIGATIONS, Composition, FrozenRun, check
from s2s.model.architecture import ModelSettings
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import OPTIMIZERS, SCHEDULES, AdamW
from s2s.optim.schedules import Linear
from s2s.recipe.checks import check_heads, check_slots
from s2s.recipe.run_settings import RunSettings
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary, VocabularySettings


@dataclass
class Recipe:
    """All settings of a run; the class of each field is documented in the room that it configures."""

    data: DataSettings = field(default_factory=DataSettings)
    vocabulary: VocabularySettings = field(default_factory=VocabularySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    mitigations: list[Any] = field(default_factory=list)  # rows of s2s.mitigations.MITIGATIONS, each with its ``name``
    heads: dict[str, Any] = field(default_factory=dict)  # rows of s2s.heads.HEADS under names of your own
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: Any = field(default_factory=AdamW)
    schedule: Any = field(default_factory=Linear)
    search: SearchMethod = field(default_factory=SearchSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        check_heads(self.heads, self.data, self.mitigations, self.run.select)
        if self.run.fused_loss and not self.generates:
            raise UserError("run.fused_loss: without data.target_field there is no loss over the vocabulary")
        self.check_methods(self.run.processes or 1, self.run.sharding == "full")
        check_slots(self.model, self.data, self.search)

    def check_methods(self, processes: int, sharded: bool = False) -> None:
        """Refuse mitigations that cannot be combined, or not in this number of processes, ``sharded`` or not."""
        run, names = self.run, [name_of(MITIGATIONS, method) for method in self.mitigations]
        in_parts, smoothing = processes * run.accumulate > 1, self.objective.label_smoothing
        check(Composition(self.mitigations, in_parts, smoothing, bool(run.compile), run.fused_loss, sharded), names)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe by its name or path, with ``key=value`` overrides; order: defaults < base < recipe < overrides.

        Errors: a UserError that names the key, its file and line, and the nearest valid key.
        """
        return cast(Recipe, merge(SCHEMA, [*recipe_layers(name_or_path), *read_arguments(overrides)]))

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read the recipe of a run's folder as data: no base, no reference and no variable in it is followed.

        Whoever made the folder chose what it names outside of itself. Such names are marked, so that nothing imports,
        opens or fetches them (``s2s.config.outside_names``).
        Errors: a UserError of one line that names the key, its file and line.
        """
        return cast(Recipe, outside_names.foreign(merge(SCHEMA, [completed(read_file(path, literal=True))])))

    @property
    def generates(self) -> bool:
        """Whether there are targets to learn to write."""
        return self.data.target_field is not None

    def build(self, load_model: Callable[[str], FrozenRun] | None = None) -> tuple[Vocabulary, Objective]:
        """Return the vocabulary and the objective, with the weights that training would start from.

        ``load_model`` reads another run's folder, such as the reference of ``gold``: give
        ``s2s.runs.checkpoints.load_model``.
        """
        from s2s.recipe.build import build  # here, because it reads recipes

        return build(self, load_model)

    def values(self) -> dict[str, Any]:
        """Return all settings as plain nested values, as a recipe file would hold them."""
        values = outside_names.plain(self)
        for section, table in TABLES.items():
            values[section] = {"name": name_of(table, getattr(self, section)), **values[section]}
        for section, table in LISTS.items():
            values[section] = [_named_row(table, row) for row in getattr(self, section)]
        for section, table in NAMES.items():
            values[section] = {name: _named_row(table, row) for name, row in getattr(self, section).items()}
        return cast(dict[str, Any], values)

    def to_yaml(self) -> str:
        """Return the merged recipe as the text of a run's ``recipe.yaml``.

        Errors: a UserError for a value that would be read back as another, so that no run trains that cannot be
        loaded.
        """
        changed: list[str] = []
        for readable in (True, False):  # some characters, such as U+0085, are read back only from escapes
            try:
                text: str = yaml.safe_dump(self.values(), allow_unicode=readable, sort_keys=False)
            except yaml.YAMLError as error:
                raise UserError(f"recipe: a value cannot be saved: {first_line(error)}") from error
            again = merge(SCHEMA, [read_text(text, "recipe.yaml", literal=True)])
            if not (changed := differences(again, self)):
                return text
        keys = ", ".join(line.partition(":")[0] for line in changed)
        raise UserError(f"recipe: {keys}: what is saved would be read back with other values")


TABLES: dict[str, dict[str, Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "search": SEARCHES}
LISTS: dict[str, dict[str, Any]] = {"mitigations": MITIGATIONS}
NAMES: dict[str, dict[str, Any]] = {"heads": HEADS}
SCHEMA = Schema(Recipe, TABLES, LISTS, NAMES)
"""The sections of a recipe that pick a row of a table by its ``name``, that list rows, and that hold rows by names."""


def _named_row(table: dict[str, Any], row: Any) -> dict[str, Any]:
    return {"name": name_of(table, row), **outside_names.plain(row)}


def differences(current: Recipe, before: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, each as ``key: before -> current``."""
    new, old = dict(flat(current.values())), dict(flat(before.values()))
    keys = sorted(new.keys() | old.keys())
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if new.get(key) != old.get(key)]


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested settings and their values."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key in LISTS:
            for index, row in enumerate(value):
                yield from flat(row, f"{key}[{index}].")
        else:
            yield prefix + key, value
