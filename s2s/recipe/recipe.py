"""Recipes: the typed settings of a run, read from YAML, and the objects that they describe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from s2s.config import merge, read_arguments, read_file, read_text
from s2s.config.merge import Schema, name_of
from s2s.config.outside_names import OWN_WORDS, foreign, refuse_foreign
from s2s.config.recipe_files import completed, recipe_layers
from s2s.data import Dataset, DataSettings, load
from s2s.data.cache import CacheEntry
from s2s.data.dataset import TRAINED, is_same, texts
from s2s.data.sources import PLAIN, Labelling
from s2s.data.tokenised import TokenisedSplit, tokenise
from s2s.errors import UserError, first_line
from s2s.files.paths import cache_folder
from s2s.heads.run_heads import Head, Heads, make_heads
from s2s.losses.fused_loss import fused_loss
from s2s.losses.vocabulary_loss import vocabulary_loss
from s2s.mitigations import MITIGATIONS, Composition, PreparedMethod, TrainingContext, check
from s2s.model import ModelSettings, PrefixTransformer, pretrained
from s2s.model.architecture import from_scratch
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import AdamW
from s2s.optim.schedules import Linear
from s2s.randomness import seed_device, seed_of
from s2s.recipe.checks import check_heads, check_slots, labelled, with_slots
from s2s.recipe.run_settings import RunSettings
from s2s.recipe.tables import LISTS, NAMES, TABLES, flat, plain
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary, VocabularySettings, make

LoadModel = Callable[[str], PrefixTransformer]
"""A function that reads the frozen model of a run's folder. Recipes do not know run folders: callers hand it in."""


def _refuse_to_load(folder: str) -> PrefixTransformer:
    raise UserError(f"a mitigation reads the run '{folder}': give load_model=s2s.runs.run.load_model")


@dataclass
class Recipe:
    """All settings of a run; the fields' classes are documented beside what they configure."""

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
        self.check_methods(self.run.processes or 1)
        check_slots(self.model, self.data, self.search)

    def check_methods(self, processes: int) -> None:
        """Refuse methods that do not stand together, or not in that number of processes."""
        run, names = self.run, [name_of(MITIGATIONS, method) for method in self.mitigations]
        in_parts, smoothing = processes * run.accumulate > 1, self.objective.label_smoothing
        check(Composition(self.mitigations, in_parts, smoothing, bool(run.compile), run.fused_loss), names)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a recipe by its name or path, with ``key=value`` overrides; order: defaults < base < recipe < overrides.

        Errors: a UserError that names the key, where it stands and the nearest valid one.
        """
        recipe = merge(SCHEMA, [*recipe_layers(name_or_path), *read_arguments(overrides)])
        assert isinstance(recipe, Recipe)
        return recipe

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read the recipe of a run's folder as data: no base, no reference and no variable in it is followed.

        What it names outside of the folder is marked, so that nothing imports, opens or fetches it
        (``s2s.config.outside_names``).
        Errors: a UserError of one line that names the key and where it stands.
        """
        recipe = merge(SCHEMA, [completed(read_file(path, literal=True))])
        assert isinstance(recipe, Recipe)
        return cast(Recipe, foreign(recipe))

    def build(self, load_model: LoadModel | None = None) -> tuple[Vocabulary, Objective]:
        """Return the vocabulary and the objective, with the weights that training would start from.

        ``load_model`` reads the folder of another run, such as the reference of ``gold``: ``s2s.runs.run.load_model``.
        """
        dataset = self.load_data()
        vocabulary = self.build_vocabulary(dataset)
        objective, _ = self.build_objective(vocabulary, self.labels(dataset), load_model)
        return vocabulary, objective

    @property
    def generates(self) -> bool:
        """Whether there are targets to learn to write."""
        return self.data.target_field is not None

    def load_data(self, splits: Sequence[str] = TRAINED) -> Dataset:
        """The data set with the fields that heads ask for; without targets, only examples that have a label.

        Only the ``splits`` are read.
        """
        dataset = load(self.data, self._label_fields(), splits)
        return dataset if self.generates else labelled(dataset, self.heads)

    def _label_fields(self) -> list[str]:
        return sorted({head.field for head in self.heads.values() if head.field})

    def is_trained_on(self, recorded: str, dataset: Dataset) -> bool:
        """Return whether the fingerprint that a run recorded is that of this recipe's data set."""
        return is_same(recorded, dataset, self.data, self._label_fields())

    def labels(self, dataset: Dataset) -> dict[str, list[str]]:
        """The labels of each head: those that the train split has."""
        return {name: list(head.names(name, dataset.train)) for name, head in self.heads.items()}

    def make_heads(self, labels: Mapping[str, Sequence[str]]) -> list[Head]:
        """The heads, given their labels."""
        return make_heads(self.heads, labels, self.data)

    def build_vocabulary(self, dataset: Dataset) -> Vocabulary:
        """The vocabulary for a data set's train split."""
        refuse_foreign(self.vocabulary, "vocabulary", OWN_WORDS)
        refuse_foreign(self.model, "model", OWN_WORDS)
        place = self.vocabulary.name or self.model.pretrained
        most = self.vocabulary.sample if self.vocabulary.kind == "sentencepiece" else None
        return make(self.vocabulary, place and pretrained.find(place), lambda: texts(dataset, most))

    def build_objective(
        self,
        vocabulary: Vocabulary,
        labels: Mapping[str, Sequence[str]] | None = None,
        load_model: LoadModel | None = None,
    ) -> tuple[Objective, list[str]]:
        """The untrained objective, a function of recipe, vocabulary and the labels of heads, which are those of the
        data unless given, and lines on what a warm start matched.
        """
        model, report = self.build_model(vocabulary.size, vocabulary.keep)
        needed, positions = self.data.max_source + self.generates * self.data.max_target, model.shape.positions
        if needed > positions:
            raise UserError(
                f"data.max_source: with max_target {needed} tokens, but the model has {positions} positions"
            )
        labels = self.labels(self.load_data()) if labels is None and self.heads else labels or {}
        return self.objective_of(model, vocabulary, labels, load_model), report

    def objective_of(
        self,
        model: PrefixTransformer,
        vocabulary: Vocabulary,
        labels: Mapping[str, Sequence[str]],
        load_model: LoadModel | None = None,
    ) -> Objective:
        """The objective of a model, with the recipe's methods, heads and recomputation."""
        model.keep(self.run.checkpointing, self.run.checkpointing_every)
        model.compile_blocks(bool(self.run.compile))
        heads = self.build_heads(model.shape.width, vocabulary.size, labels)
        loss = fused_loss if self.run.fused_loss else vocabulary_loss
        methods = self.build_mitigations(vocabulary, load_model)
        return Objective(model, self.objective, methods, heads, self.generates, loss)

    def build_heads(self, width: int, size: int, labels: Mapping[str, Sequence[str]]) -> Heads | None:
        """The untrained modules of the heads, if there are any."""
        if not self.heads:
            return None
        with torch.random.fork_rng(devices=[]):
            seed_device(seed_of(self.run.seed, "heads"))
            return Heads(self.make_heads(labels), width, size)

    def build_mitigations(self, vocabulary: Vocabulary, load_model: LoadModel | None = None) -> list[PreparedMethod]:
        """Return the methods with their names and with what they prepared for training."""
        context = TrainingContext(
            vocabulary,
            lambda: self.tokenise(load(self.data), vocabulary, "train", PLAIN),
            max_source=self.data.max_source,
            max_length=self.data.max_target,
            load_model=load_model or _refuse_to_load,
        )
        for index, method in enumerate(self.mitigations):
            refuse_foreign(method, f"mitigations[{index}]", OWN_WORDS)
        return [
            PreparedMethod(name_of(MITIGATIONS, method), method, method.prepare(context)) for method in self.mitigations
        ]

    def tokenise(self, dataset: Dataset, vocabulary: Vocabulary, split: str, labelling: Labelling) -> TokenisedSplit:
        """The ids of a split, train or dev; those of a large one are kept in the cache."""
        examples = {"train": dataset.train, "dev": dataset.dev}[split]
        shelf, limits = CacheEntry(cache_folder(self.data.cache), dataset.fingerprint), self.data
        return tokenise(examples, vocabulary, limits.max_source, limits.max_target, split, labelling, shelf)

    def build_model(self, size: int, keep: Sequence[int] | None) -> tuple[PrefixTransformer, list[str]]:
        """The untrained model for so many pieces, a checkpoint's cut to those to keep, and lines on what it matched."""
        refuse_foreign(self.model, "model", OWN_WORDS)
        settings = with_slots(self.model, self.data)
        with torch.random.fork_rng(devices=[]):
            seed_device(seed_of(self.run.seed, "weights"))
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
        return plain(self)

    def to_yaml(self) -> str:
        """Return the merged recipe as the text of a run's ``recipe.yaml``.

        Errors: a UserError for a value that would not be read back as it is, so that no run trains that cannot be
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


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, each with both values."""
    mine, others = dict(flat(ours.values())), dict(flat(theirs.values()))
    keys = sorted(mine.keys() | others.keys())
    return [f"{key}: {others.get(key)} -> {mine.get(key)}" for key in keys if mine.get(key) != others.get(key)]


SCHEMA = Schema(Recipe, TABLES, LISTS, NAMES)
