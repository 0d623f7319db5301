"""Make what a recipe describes: data set, vocabulary, model, heads, mitigations and objective.

Every function takes the recipe and what it builds upon. Code that only reads a recipe needs none of this.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy
import torch

from s2s.config.merge import name_of
from s2s.config.outside_names import OWN_WORDS, refuse_foreign
from s2s.data import Dataset, load
from s2s.data.cache import CacheEntry
from s2s.data.dataset import TRAINED, is_same, texts
from s2s.data.sources import PLAIN, Labelling
from s2s.data.tokenised import TokenisedSplit, tokenise
from s2s.errors import UserError
from s2s.files.paths import cache_folder
from s2s.heads.run_heads import Heads, labelling_of, make_heads
from s2s.losses.fused_loss import fused_loss
from s2s.losses.vocabulary_loss import vocabulary_loss
from s2s.mitigations import MITIGATIONS, FrozenRun, PreparedMethod, TrainingContext
from s2s.model import pretrained
from s2s.model.architecture import from_scratch
from s2s.model.backbone import Backbone
from s2s.model.backbones import BACKBONES, is_foreign, start
from s2s.model.backbones.check import check
from s2s.model.initialization import initialise
from s2s.model.transformer import PrefixTransformer
from s2s.objective import Objective
from s2s.randomness import seed_device, seed_of
from s2s.recipe.checks import check_search, with_slots
from s2s.recipe.recipe import Recipe
from s2s.vocabulary import Vocabulary, make
from s2s.vocabulary.layouts import LayoutRequest

LoadModel = Callable[[str], FrozenRun]
"""A function that reads the frozen model and the vocabulary of a run's folder.

Recipes do not know run folders: callers hand it in.
"""


def _refuse_to_load(folder: str) -> FrozenRun:
    raise UserError(f"a mitigation reads the run '{folder}': give load_model=s2s.runs.checkpoints.load_model")


def build(recipe: Recipe, load_model: LoadModel | None = None) -> tuple[Vocabulary, Objective]:
    """Return the vocabulary and the objective, with the weights that training would start from."""
    dataset = load_data(recipe)
    vocabulary = build_vocabulary(recipe, dataset)
    objective, _ = build_objective(recipe, vocabulary, label_names(recipe, dataset), load_model)
    return vocabulary, objective


def load_data(recipe: Recipe, splits: Sequence[str] = TRAINED) -> Dataset:
    """Read the ``splits`` of the data set, with the fields that heads ask for.

    Without targets, only examples that have a label are kept; the data set's report says how many are not.
    """
    dataset = load(recipe.data, _label_fields(recipe), splits)
    if recipe.generates:
        return dataset
    examples = {"train": dataset.train, "dev": dataset.dev, "test": dataset.test}
    heads = recipe.heads.values()
    kept, report = {}, [*dataset.report]
    for name, rows in examples.items():
        labelled = [any(head.has_labels(example) for head in heads) for example in rows]
        kept[name] = rows.take(numpy.array(labelled, dtype=bool))
        if lost := len(rows) - len(kept[name]):
            report.append(f"{name}: left out {lost} of {len(rows)} examples, which have no label")
    return dataset._replace(**kept, report=report)  # type: ignore[arg-type]


def _label_fields(recipe: Recipe) -> list[str]:
    return sorted({head.field for head in recipe.heads.values() if head.field})


def is_trained_on(recipe: Recipe, recorded: str, dataset: Dataset) -> bool:
    """Say whether the fingerprint that a run recorded is that of its recipe's data set."""
    return is_same(recorded, dataset, recipe.data, _label_fields(recipe))


def label_names(recipe: Recipe, dataset: Dataset) -> dict[str, list[str]]:
    """Return the labels of each head: those that the train split has."""
    return {name: list(head.names(name, dataset.train)) for name, head in recipe.heads.items()}


def check_model(recipe: Recipe) -> None:
    """Refuse a checkpoint that a run's folder names or that is not there, and a search that its model cannot have.

    Cheap: to be called before minutes are spent on reading the data.
    """
    refuse_foreign(recipe.model, "model", OWN_WORDS)
    if recipe.generates:
        check_search(BACKBONES[start.kind(recipe.model)][0], recipe.search)
    elif recipe.model.pretrained:
        pretrained.find(recipe.model.pretrained)


def build_vocabulary(recipe: Recipe, dataset: Dataset) -> Vocabulary:
    """Make the vocabulary from the train split, or read the pretrained one."""
    settings = recipe.vocabulary
    refuse_foreign(settings, "vocabulary", OWN_WORDS)
    refuse_foreign(recipe.model, "model", OWN_WORDS)
    name = settings.name or recipe.model.pretrained
    most = settings.sample if settings.kind == "sentencepiece" else None
    return make(settings, name and pretrained.find(name), lambda: texts(dataset, most), _layout_request(recipe))


def _layout_request(recipe: Recipe) -> LayoutRequest | None:
    """Return the layout that a pretrained tokenizer needs for a model of ``transformers``; None for our own layout."""
    kind, template = start.kind(recipe.model), recipe.data.template
    if not is_foreign(kind) or recipe.vocabulary.kind != "pretrained":
        if template is not None:
            raise UserError(
                "data.template: it is for a model of transformers with its own tokenizer (vocabulary.kind: pretrained)"
            )
        return None
    return LayoutRequest(kind, *start.special_ids(recipe.model), template)


def tokenise_data(
    recipe: Recipe, dataset: Dataset, vocabulary: Vocabulary, labels: Mapping[str, Sequence[str]]
) -> tuple[TokenisedSplit, TokenisedSplit]:
    """Return the ids of the train and the dev split, with the numbers of the heads' labels."""
    labelling = labelling_of(make_heads(recipe.heads, labels, recipe.data), recipe.data)
    train, dev = (_tokenise(recipe, dataset, vocabulary, split, labelling) for split in ("train", "dev"))
    return train, dev


def _tokenise(
    recipe: Recipe, dataset: Dataset, vocabulary: Vocabulary, split: str, labelling: Labelling
) -> TokenisedSplit:
    """Return the ids of a split; those of a large one are kept in the cache."""
    limits, entry = recipe.data, CacheEntry(cache_folder(recipe.data.cache), dataset.fingerprint)
    examples = dataset.train if split == "train" else dataset.dev
    return tokenise(examples, vocabulary, limits.max_source, limits.max_target, split, labelling, entry)


def build_objective(
    recipe: Recipe,
    vocabulary: Vocabulary,
    labels: Mapping[str, Sequence[str]] | None = None,
    load_model: LoadModel | None = None,
) -> tuple[Objective, list[str]]:
    """Return the untrained objective, and lines on what a warm start matched.

    The ``labels`` of heads are read from the data unless they are given.
    """
    special = {
        "pad_token_id": vocabulary.padding,
        "bos_token_id": vocabulary.begin,
        "eos_token_id": vocabulary.end,
        "decoder_start_token_id": [*vocabulary.prefix, vocabulary.start][0],
    }
    model, report = build_model(recipe, vocabulary.size, vocabulary.keep, special, vocabulary.prefix)
    longest, positions = recipe.data.max_source, model.shape.positions
    needed = model.shape.needed(longest, recipe.data.max_target) if recipe.generates else longest
    if needed > positions:
        raise UserError(f"data.max_source: with max_target {needed} tokens, but the model has {positions} positions")
    if labels is None:
        labels = label_names(recipe, load_data(recipe)) if recipe.heads else {}
    return objective_of(recipe, model, vocabulary, labels, load_model), report


def objective_of(
    recipe: Recipe,
    model: Backbone,
    vocabulary: Vocabulary,
    labels: Mapping[str, Sequence[str]],
    load_model: LoadModel | None = None,
) -> Objective:
    """Return the objective of a model, with the recipe's mitigations, heads, recomputation and loss.

    Its heads are made on the model's device, which may be "meta".
    """
    if recipe.generates:
        check_search(type(model), recipe.search)
    model.keep(recipe.run.checkpointing, recipe.run.checkpointing_every)
    model.compile_blocks(bool(recipe.run.compile))
    with model.device:
        heads = build_heads(recipe, model.shape.width, vocabulary.size, labels)
    loss = fused_loss if recipe.run.fused_loss else vocabulary_loss
    mitigations = build_mitigations(recipe, vocabulary, load_model)
    return Objective(model, recipe.objective, mitigations, heads, recipe.generates, loss)


def build_model(
    recipe: Recipe,
    size: int,
    keep: Sequence[int] | None,
    special: Mapping[str, int] | None = None,
    prefix: Sequence[int] = (),
) -> tuple[Backbone, list[str]]:
    """Return the untrained model for ``size`` pieces, and lines on what a checkpoint matched.

    Of a checkpoint's vocabulary only the pieces ``keep`` stay, unless it is None. A configuration of ``transformers``
    without a checkpoint gets the ids of ``special`` tokens, and a decoder reads ``prefix`` before every target.
    """
    refuse_foreign(recipe.model, "model", OWN_WORDS)
    if is_foreign(start.kind(recipe.model)):
        with torch.random.fork_rng(devices=[]):
            seed_device(seed_of(recipe.run.seed, "weights"))
            foreign, lines = start.start(recipe.model, size, special or {}, prefix)
        check(foreign, recipe.data.max_source, recipe.data.max_target)
        return foreign, lines
    if recipe.model.lora.rank is not None:
        raise UserError("model.lora: it adapts models of transformers; the prefix LM trains whole, so set rank to null")
    settings = with_slots(recipe.model, recipe.data)
    # A generator of its own, so that the weights depend on the seed alone and not on what was drawn before.
    with torch.random.fork_rng(devices=[]):
        seed_device(seed_of(recipe.run.seed, "weights"))
        if settings.pretrained is None:
            model = PrefixTransformer(from_scratch(settings, size))
            initialise(model, settings.initialization)
            return model, []
        checkpoint = pretrained.read(settings, keep)
        if (rows := checkpoint.architecture.vocabulary) < size:
            raise UserError(f"vocabulary: {size} pieces, but '{settings.pretrained}' has {rows} rows")
        model = PrefixTransformer(checkpoint.architecture)
        initialise(model, settings.initialization)
    # Not strict: a checkpoint without a second segment or a prediction layer leaves those as they were initialised.
    model.load_state_dict(checkpoint.state, strict=False)
    return model, checkpoint.report


def build_heads(recipe: Recipe, width: int, size: int, labels: Mapping[str, Sequence[str]]) -> Heads | None:
    """Return the untrained modules of the heads, if there are any."""
    if not recipe.heads:
        return None
    with torch.random.fork_rng(devices=[]):
        seed_device(seed_of(recipe.run.seed, "heads"))
        return Heads(make_heads(recipe.heads, labels, recipe.data), width, size)


def build_mitigations(
    recipe: Recipe, vocabulary: Vocabulary, load_model: LoadModel | None = None
) -> list[PreparedMethod]:
    """Return the mitigations with their names and with what they prepared for training."""
    context = TrainingContext(
        vocabulary,
        # Only a method that asks for the train split waits for it.
        lambda: _tokenise(recipe, load(recipe.data), vocabulary, "train", PLAIN),
        max_source=recipe.data.max_source,
        max_length=recipe.data.max_target,
        load_model=load_model or _refuse_to_load,
    )
    # All are checked before the first prepares: that may read files, which a foreign recipe must not name.
    for index, method in enumerate(recipe.mitigations):
        refuse_foreign(method, f"mitigations[{index}]", OWN_WORDS)
    return [
        PreparedMethod(name_of(MITIGATIONS, method), method, method.prepare(context)) for method in recipe.mitigations
    ]
