"""What the loop starts with: the processes, the data, the vocabulary, the run's folder and the objective."""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from s2s.data import Dataset
from s2s.data.dataset import spaced
from s2s.data.tokenised import TokenisedSplit
from s2s.errors import UserError
from s2s.files.atomic import write_atomically
from s2s.heads.run_heads import labelling_of
from s2s.losses import fused_loss
from s2s.machine.matmul import KERNELS, is_about_kernels, kernel_on
from s2s.machine.precision import Choice, Precision, choose_precision, decoding_precision
from s2s.model import PrefixTransformer
from s2s.objective import Objective
from s2s.recipe.recipe import Recipe, differences
from s2s.runs import checkpoints, run_folder
from s2s.runs.checkpoints import Checkpoint
from s2s.runs.metadata import VOCABULARY, RunMetadata, check_files, check_weights, read_metadata, write_metadata
from s2s.runs.run import load_model
from s2s.runs.weight_files import check_tensors
from s2s.training import trackers
from s2s.training.evaluation import check_select
from s2s.training.launch import join, read_launch, unheard, wait_for_all
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import TESTED, changed_texts

LIBRARIES = ("torch", "transformers", "accelerate", "sentencepiece")
FREE = ("folder", "keep", "average", "trackers")
"""Keys of ``run:`` that change no bit of what is trained."""
MEANS = (
    "run.device",
    "run.processes",
    "run.accumulate",
    "run.precision",
    "run.tf32",
    "run.compile",
    "search.precision",
)
"""Keys that say how examples are dealt out and computed with: they may change, and a line says so."""


class Prepared(NamedTuple):
    """What the loop works with."""

    recipe: Recipe
    accelerator: Accelerator
    vocabulary: Vocabulary
    dataset: Dataset
    train: TokenisedSplit
    dev: TokenisedSplit
    metadata: RunMetadata
    precision: Precision = Precision()


def check_processes(recipe: Recipe) -> Accelerator:
    """The processes that came up, checked against those that were asked for."""
    trackers.check(recipe.run.trackers)
    launch = read_launch(asked=recipe.run.device)
    asked, there = recipe.run.processes, launch.processes
    if asked not in (None, there):
        raise UserError(
            f"run.processes: {asked}, but {there} came up; leave the key out to take those that do, or start them: on "
            f"CPU with torchrun --nproc-per-node {asked}, on GPUs with accelerate launch --num_processes {asked}"
        )
    recipe.check_methods(there)
    join(launch)
    # An earlier run of this process may have had another precision or, alone, another device.
    AcceleratorState._reset_state(reset_partial_state=launch.group is None)
    precision = choose_precision(recipe.run.precision, launch.device, launch.precision).name
    with unheard(launch):
        accelerator = Accelerator(
            cpu=launch.device == "cpu",
            mixed_precision="bf16" if precision == "bf16" else "no",  # fp16: see s2s.machine.precision
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
            log_with=list(recipe.run.trackers) or None,
            project_config=trackers.project(Path(recipe.run.folder)),
        )
    if recipe.run.fused_loss:
        fused_loss.require(accelerator.device)
    return accelerator


def check_same(recipe: Recipe, accelerator: Accelerator, folder: Path) -> list[str]:
    """Refuse to go on with another recipe, except for what can change; returns lines on what changes bits.

    More steps or patience, what is kept and told, and how updates are dealt out and computed can change.
    """
    before, metadata = run_folder.read_recipe(folder), read_metadata(folder)
    check_files(folder, metadata, VOCABULARY)  # before run.json lists them again
    free = {*MEANS, *(f"run.{key}" for key in FREE), *_raised(recipe, before)}
    changed = [line for line in differences(recipe, before) if line.partition(":")[0].partition("[")[0] not in free]
    if changed:
        raise UserError(f"{folder}: the run there has another recipe ({'; '.join(changed)}); choose another run.folder")
    means, now = _means(recipe, accelerator), _with_kernel(metadata, recipe, accelerator)
    then = asdict(metadata) | {
        "device": metadata.device or means["device"],  # earlier versions did not say
        "processes": metadata.processes or before.run.processes or 1,
    }
    pairs = {key: (then[key], value) for key, value in means.items()} | {
        "kernel": (metadata.kernel, now.kernel),
        "accumulate": (before.run.accumulate, recipe.run.accumulate),
        "compile": (bool(before.run.compile), bool(recipe.run.compile)),
        "search.precision": (
            decoding_precision(before.search.precision, metadata.precision, torch.device(_kind(then["device"]))),
            decoding_precision(recipe.search.precision, means["precision"], accelerator.device),
        ),
    }
    lines = [f"{key} {then} -> {value}" for key, (then, value) in pairs.items() if then != value]
    return [f"going on with other means ({', '.join(lines)}): the examples stay, bits may differ"] if lines else []


def _means(recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "precision": precision_of(recipe, accelerator).name,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
    }


def precision_of(recipe: Recipe, accelerator: Accelerator) -> Choice:
    """Return what the run computes with on the processes' device, and why."""
    return choose_precision(
        recipe.run.precision, accelerator.device.type, read_launch(asked=recipe.run.device).precision
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU; of a processor just that it is one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _kind(name: str) -> str:
    """Return the kind of a device of that name."""
    return "cpu" if name in ("", "cpu") else "cuda"


def _with_kernel(metadata: RunMetadata, recipe: Recipe, accelerator: Accelerator) -> RunMetadata:
    """Return metadata with the kernel for this device: on a processor that of the start, whose bits it keeps."""
    was_cpu = metadata.kernel in KERNELS and not any("on the GPU" in line for line in metadata.report)
    if was_cpu and accelerator.device.type == "cpu":
        return metadata
    name, reason = kernel_on(accelerator.device, recipe.run.tf32)
    return replace(
        metadata, kernel=name, report=[*(line for line in metadata.report if not is_about_kernels(line)), reason]
    )


def _raised(recipe: Recipe, before: Recipe) -> Iterator[str]:
    """The limits of a run that are not below those from before."""
    if recipe.run.steps > before.run.steps:
        yield "run.steps"
    if before.run.patience is not None and (recipe.run.patience or math.inf) > before.run.patience:
        yield "run.patience"


def prepare(recipe: Recipe, accelerator: Accelerator, folder: Path) -> Prepared:
    """Data, vocabulary and metadata; the main process writes the folder of a new run, all read it."""
    dataset = recipe.load_data()
    if not dataset.dev:
        raise UserError("data: there are no dev examples; evaluation needs at least one")
    check_select(recipe, dataset.dev)
    if accelerator.is_main_process:
        if run_folder.exists(folder):
            write_atomically(folder / "recipe.yaml", recipe.to_yaml())
            metadata = _with_kernel(read_metadata(folder), recipe, accelerator)
            write_metadata(folder, replace(metadata, **_means(recipe, accelerator)))
        else:
            _create(recipe, dataset, accelerator, folder)
    wait_for_all()
    metadata, vocabulary = read_metadata(folder), run_folder.read_vocabulary(folder)
    if not recipe.is_trained_on(metadata.data, dataset):
        raise UserError(
            f"{folder}: trained on the data {metadata.data}; the same settings now read {dataset.fingerprint}"
        )
    labelling = labelling_of(recipe.make_heads(metadata.labels), recipe.data)
    train, dev = (recipe.tokenise(dataset, vocabulary, split, labelling) for split in ("train", "dev"))
    precision = Precision(precision_of(recipe, accelerator).name, accelerator.device.type)
    return Prepared(recipe, accelerator, vocabulary, dataset, train, dev, metadata, precision)


def _create(recipe: Recipe, dataset: Dataset, accelerator: Accelerator, folder: Path) -> None:
    """Write the folder of a new run."""
    vocabulary = recipe.build_vocabulary(dataset)
    labels = recipe.labels(dataset)
    objective, report = recipe.build_objective(vocabulary, labels, load_model)
    name, reason = kernel_on(accelerator.device, recipe.run.tf32)
    metadata = RunMetadata(
        architecture=objective.model.shape,
        data=dataset.fingerprint,
        kernel=name,
        **_means(recipe, accelerator),
        versions={name: version(name) for name in (*LIBRARIES, *["liger-kernel"] * recipe.run.fused_loss)},
        report=[
            *_sampled(recipe, dataset),
            *changed_targets(dataset, vocabulary),
            *report,
            *(f"{name}: {len(found)} labels" for name, found in labels.items() if found),
            reason,
        ],
        labels=labels,
    )
    run_folder.create(folder, recipe, vocabulary, metadata)


def changed_targets(dataset: Dataset, vocabulary: Vocabulary) -> list[str]:
    """Return lines on how train targets, some of many, come back changed from the vocabulary: so they are written."""
    targets = [example.target for example in spaced(dataset.train, TESTED) if example.target]
    return changed_texts(vocabulary, targets)


def _sampled(recipe: Recipe, dataset: Dataset) -> list[str]:
    settings, examples = recipe.vocabulary, len(dataset.train)
    if settings.kind != "sentencepiece" or examples <= settings.sample:
        return []
    return [f"vocabulary: learned from {settings.sample} of {examples} train examples (vocabulary.sample)"]


def start_objective(prepared: Prepared, folder: Path) -> tuple[Objective, Checkpoint | None, list[str]]:
    """The objective of the newest whole checkpoint, or the untrained one."""
    checkpoint, report = checkpoints.newest(folder)
    if checkpoint is None:
        objective, _ = prepared.recipe.build_objective(prepared.vocabulary, prepared.metadata.labels, load_model)
    else:
        model = PrefixTransformer(prepared.metadata.architecture)
        objective = prepared.recipe.objective_of(model, prepared.vocabulary, prepared.metadata.labels, load_model)
        if checkpoint.file is not None:
            check_weights(folder, prepared.metadata, checkpoint.file)
            check_tensors(objective, checkpoint.weights, checkpoint.file)
        objective.load_state_dict(checkpoint.weights)
        report = [*report, f"going on from step {checkpoint.step}"]
    return objective.to(prepared.accelerator.device), checkpoint, report
