"""The steps before the training loop: start the accelerator, prepare data and folder, build or load the objective."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor
from torch.nn import Module

from s2s.data import Dataset, Example
from s2s.data.dataset import spaced
from s2s.data.tokenised import TokenisedSplit
from s2s.errors import UserError
from s2s.files.atomic import write_atomically
from s2s.losses import fused_loss
from s2s.machine.agreement import decided, failing_together, several, told
from s2s.machine.matmul import kernel_on_gpu
from s2s.machine.paths import GPU_WAYS, KERNELS, WAYS
from s2s.machine.precision import Choice, Precision, choose_precision, decoding_precision
from s2s.machine.worker_pool import kind_of_processor
from s2s.model.backbone import Shape
from s2s.model.backbones import untrained, without_weights
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.objective import Objective
from s2s.recipe import build
from s2s.recipe.recipe import Recipe, differences
from s2s.recipe.run_settings import refuse_with_sharding
from s2s.runs import checkpoints, run_folder, shard_files
from s2s.runs.base_weights import load_base, read_base, save_base
from s2s.runs.checkpoints import Checkpoint, load_model
from s2s.runs.gpu_paths import choose_on_gpu
from s2s.runs.metadata import VOCABULARY, RunMetadata, check_files, check_weights, read_metadata, write_metadata
from s2s.runs.paths import choose, is_about_paths, kept, sizes_of
from s2s.runs.weight_files import check_tensors
from s2s.training import sharding, trackers
from s2s.training.launch import Launch, hidden_from_accelerate, join, read_launch
from s2s.vocabulary import Vocabulary
from s2s.vocabulary.reports import TESTED, changed_texts

LIBRARIES = ("torch", "transformers", "accelerate", "sentencepiece")
"""Libraries whose versions are recorded with a run."""
RECORDING = ("run.folder", "run.keep", "run.average", "run.trackers", "run.checkpoint_format")
"""Keys that change nothing of what is trained, only what is stored and reported of it."""
COMPUTING = (
    *("run.device", "run.processes", "run.accumulate", "run.precision", "run.tf32", "run.compile", "run.paths"),
    "run.sharding",
    "search.precision",
)
"""Keys that change how a step is distributed and computed, not its examples. They may change when a run is resumed."""


class Prepared(NamedTuple):
    """The things that the training loop works with."""

    recipe: Recipe
    accelerator: Accelerator
    vocabulary: Vocabulary
    dataset: Dataset
    train: TokenisedSplit
    dev: TokenisedSplit
    metadata: RunMetadata
    precision: Precision = Precision()


def check_processes(recipe: Recipe) -> Accelerator:
    """Check the processes that came up against those asked for, let them meet and return their accelerator."""
    launch = read_launch(asked=recipe.run.device)
    asked, present = recipe.run.processes, launch.processes
    if asked not in (None, present):
        raise UserError(
            f"run.processes: {asked}, but {present} came up; leave the key out to take those that do, or start them: "
            f"on CPU with torchrun --nproc-per-node {asked}, on GPUs with accelerate launch --num_processes {asked}"
        )
    return start_accelerator(recipe, launch)


def start_accelerator(recipe: Recipe, launch: Launch) -> Accelerator:
    """Check what the recipe needs of the processes and libraries, let the processes meet and return the accelerator."""
    trackers.check(recipe.run.trackers)
    sharded = is_sharded(recipe, launch)
    recipe.check_methods(launch.processes, sharded)
    precision = choose_precision(recipe.run.precision, launch.device, launch.precision).name
    if sharded:
        refuse_with_sharding(bool(recipe.run.compile), precision)
    join(launch)
    # Accelerate keeps this state for the life of a process, but an earlier run in it may have had another precision
    # or, without a group of processes, another device.
    AcceleratorState._reset_state(reset_partial_state=launch.group is None)
    # Accelerate neither accumulates, compiles nor scales: this package does so itself.
    with hidden_from_accelerate(launch):
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


def is_sharded(recipe: Recipe, launch: Launch) -> bool:
    """Say whether processes divide the parameters among them; one process has nobody to divide them with."""
    return launch.processes > 1 and (recipe.run.sharding or launch.sharding) == "full"


def check_resumable(recipe: Recipe, accelerator: Accelerator, folder: Path) -> list[str]:
    """Refuse to resume a run with another recipe; return a line on changes that may change bits.

    The new recipe may have more steps or patience, and other keys of ``RECORDING`` and ``COMPUTING``.
    """
    earlier, metadata = run_folder.read_recipe(folder), read_metadata(folder)
    check_files(folder, metadata, VOCABULARY)  # before ``prepare`` writes a new list of files to run.json
    allowed = {*COMPUTING, *RECORDING}
    if recipe.run.steps > earlier.run.steps:
        allowed.add("run.steps")
    if earlier.run.patience is not None and (recipe.run.patience or math.inf) > earlier.run.patience:
        allowed.add("run.patience")
    # A line reads "run.trackers[0]: wandb -> tensorboard": its key is the text before the index. Paths have a key each.
    keys = {line: line.partition(":")[0].partition("[")[0] for line in differences(recipe, earlier)}
    changed = [line for line, key in keys.items() if key not in allowed and not key.startswith("run.paths.")]
    if changed:
        raise UserError(f"{folder}: the run there has another recipe ({'; '.join(changed)}); choose another run.folder")
    current = _refreshed(metadata, recipe, accelerator)
    # Runs of earlier versions recorded neither device nor processes.
    device, processes = metadata.device or current.device, metadata.processes or earlier.run.processes or 1
    processor = metadata.processor or current.processor
    before = _computation(earlier, replace(metadata, device=device, processes=processes, processor=processor))
    after = _computation(recipe, current)
    lines = [f"{key} {before[key]} -> {value}" for key, value in after.items() if before.get(key, value) != value]
    return [f"resuming with changes ({', '.join(lines)}): the examples stay, bits may differ"] if lines else []


def _computation(recipe: Recipe, metadata: RunMetadata) -> dict[str, Any]:
    """Return what may change the bits of a step, though not its examples."""
    device = torch.device(metadata.device if metadata.device in ("cpu", "mps") else "cuda")  # or the name of a GPU
    return {
        "threads": metadata.threads,
        "precision": metadata.precision,
        "device": metadata.device,
        "processes": metadata.processes,
        "sharding": metadata.sharding,
        "kernel": metadata.kernel,
        **_paths(metadata),
        "accumulate": recipe.run.accumulate,
        "compile": bool(recipe.run.compile),
        "search.precision": decoding_precision(recipe.search.precision, metadata.precision, device),
    }


def _paths(metadata: RunMetadata) -> dict[str, str]:
    table = WAYS if metadata.processor else GPU_WAYS
    ways = {name: metadata.paths.get(name, first) for name, (first, *_) in table.items() if name != "products"}
    return ways | ({"processor": metadata.processor} if metadata.processor else {})


def _refreshed(metadata: RunMetadata, recipe: Recipe, accelerator: Accelerator) -> RunMetadata:
    """Return a resumed run's metadata with the processes and the arithmetic of this start."""
    was_on_cpu = metadata.kernel in KERNELS and not any("on the GPU" in line for line in metadata.report)
    means = _means(recipe, accelerator)
    if accelerator.device.type == "cpu":
        same = was_on_cpu and metadata.processor in ("", kind_of_processor())
    else:
        same = (metadata.device, metadata.precision) == (means["device"], means["precision"])
    # A run that stays on its kind of processor or GPU keeps the ways of its start, whatever a new measurement says: so
    # its bits stay. A run of an earlier version keeps those that it had.
    arithmetic, reason = _arithmetic(recipe, metadata.architecture, accelerator, metadata.ways if same else {})
    current = replace(metadata, **arithmetic, **means)
    if current.ways == metadata.ways:
        return current
    return replace(current, report=[*(line for line in metadata.report if not is_about_paths(line)), reason])


def _arithmetic(
    recipe: Recipe, shape: Shape, accelerator: Accelerator, saved: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """Return the kernel, the paths and their processor for a run's metadata, and a line on them.

    ``saved`` ways are kept, but for those that the recipe pins; without them all are measured.
    """
    if accelerator.device.type != "cpu":
        kernel, reason = kernel_on_gpu(recipe.run.tf32)
        precision, processes = precision_of(recipe, accelerator).name, accelerator.num_processes
        paths, why = choose_on_gpu(recipe, shape, processes, precision, accelerator.device, saved)
        return {"kernel": kernel, "paths": paths, "processor": ""}, f"{reason}{why}"
    if saved:
        ways, reason = kept(saved, recipe.run.paths)
    else:
        precision = precision_of(recipe, accelerator).name
        ways, reason = choose(sizes_of(recipe, shape, accelerator.num_processes, precision), recipe.run.paths)
    paths = {name: way for name, way in ways.items() if name != "products"}
    return {"kernel": ways["products"], "paths": paths, "processor": kind_of_processor()}, reason


def _means(recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    device = accelerator.device
    return {
        "threads": torch.get_num_threads(),
        "precision": precision_of(recipe, accelerator).name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "sharding": "full" if is_sharded(recipe, read_launch(asked=recipe.run.device)) else "none",
    }


def precision_of(recipe: Recipe, accelerator: Accelerator) -> Choice:
    """Return the precision of the run on this device, and why."""
    launch = read_launch(asked=recipe.run.device)
    return choose_precision(recipe.run.precision, accelerator.device.type, launch.precision)


def prepare(recipe: Recipe, accelerator: Accelerator, folder: Path) -> Prepared:
    """Read or create the run's folder: the main process writes it and tells the others what run it is."""
    # Before minutes are spent on reading the data.
    decided(lambda: None if run_folder.exists(folder) else build.check_model(recipe))
    dataset = load_data(recipe)

    def written() -> RunMetadata:
        if run_folder.exists(folder):
            write_atomically(folder / "recipe.yaml", recipe.to_yaml())
            write_metadata(folder, _refreshed(read_metadata(folder), recipe, accelerator))
        else:
            vocabulary, objective, metadata = new_run(recipe, dataset, accelerator)
            save_base(folder, objective.model)
            run_folder.create(folder, recipe, vocabulary, metadata)
        return read_metadata(folder)

    metadata = decided(written)
    if not build.is_trained_on(recipe, metadata.data, dataset):
        raise UserError(
            f"{folder}: trained on the data {metadata.data}; the same settings now read {dataset.fingerprint}"
        )
    return tokenise(recipe, accelerator, dataset, run_folder.read_vocabulary(folder, metadata), metadata)


def load_data(recipe: Recipe) -> Dataset:
    """Load the data, and refuse those that training could not evaluate on."""
    dataset = build.load_data(recipe)
    # Without dev no checkpoint could be called the best, so nothing would be loaded in the end.
    if not dataset.dev:
        raise UserError("data: there are no dev examples; evaluation needs at least one")
    _check_select(recipe, dataset.dev)
    return dataset


def _check_select(recipe: Recipe, dev: Sequence[Example]) -> None:
    """Refuse to select by a score of a head for which no dev example has a label: it would never exist.

    Heads without a field make their labels of targets. Other scores that dev cannot give, the first evaluation refuses.
    """
    name, _, score = recipe.run.select.rpartition(".")
    head = recipe.heads.get(name)
    if head is not None and head.field is not None and not any(head.has_labels(example) for example in dev):
        raise UserError(
            f"run.select: no dev example has a label of the head '{name}' (field '{head.field}'), so there is no "
            f"'{name}.{score}' to select by; give the dev split such labels, or select another score"
        )


def new_run(recipe: Recipe, dataset: Dataset, accelerator: Accelerator) -> tuple[Vocabulary, Objective, RunMetadata]:
    """Build the vocabulary, the untrained objective and the metadata of a new run."""
    vocabulary, labels = build.build_vocabulary(recipe, dataset), build.label_names(recipe, dataset)
    objective, report = build.build_objective(recipe, vocabulary, labels, load_model)
    arithmetic, reason = _arithmetic(recipe, objective.model.shape, accelerator, {})
    settings, examples = recipe.vocabulary, len(dataset.train)
    if settings.kind == "sentencepiece" and examples > settings.sample:
        sampled = [f"vocabulary: learned from {settings.sample} of {examples} train examples (vocabulary.sample)"]
    else:
        sampled = []
    pairs = [(example.source, example.target) for example in spaced(dataset.train, TESTED) if example.target]
    targets = [target for _, target in pairs]
    metadata = RunMetadata(
        architecture=objective.model.shape,
        data=dataset.fingerprint,
        **arithmetic,
        **_means(recipe, accelerator),
        versions={name: version(name) for name in (*LIBRARIES, *["liger-kernel"] * recipe.run.fused_loss)},
        report=[
            *sampled,
            *vocabulary.layout_report(pairs),
            *changed_texts(vocabulary, targets),
            *report,
            *(f"{name}: {len(values)} labels" for name, values in labels.items() if values),
            reason,
        ],
        labels=labels,
    )
    return vocabulary, objective, metadata


def tokenise(
    recipe: Recipe, accelerator: Accelerator, dataset: Dataset, vocabulary: Vocabulary, metadata: RunMetadata
) -> Prepared:
    """Tokenise train and dev, and put together what the loop works with."""
    train, dev = build.tokenise_data(recipe, dataset, vocabulary, metadata.labels)
    precision = Precision(precision_of(recipe, accelerator).name, accelerator.device.type)
    return Prepared(recipe, accelerator, vocabulary, dataset, train, dev, metadata, precision)


def start_objective(prepared: Prepared, folder: Path) -> tuple[Objective, Checkpoint | None, list[str]]:
    """Return the objective, untrained or as the newest whole checkpoint has it, that checkpoint, and lines on it.

    The main process reads files and sends what is in them; in the others the checkpoint has no tensors. Where
    parameters are divided, the objective of the others never has more than their parts of them, and a checkpoint in
    parts is read so by all.
    """
    metadata, device, main = prepared.metadata, prepared.accelerator.device, prepared.accelerator.is_main_process
    is_divided = metadata.sharding == "full"
    with failing_together():
        checkpoint, report = checkpoints.newest(folder, is_divided) if main else (None, [])
    known, report = told((checkpoint and checkpoint.without_tensors(), report))
    parts = None if known is None else known.parts
    with failing_together():
        has_weights = main and parts is None
        objective = (
            _with_weights(prepared, folder, checkpoint) if has_weights else _without_weights(prepared, is_divided)
        )
    tensors = sharding.all_tensors(objective) if has_weights else {}
    if is_divided:
        sharding.shard(objective, device, prepared.precision.name)
    objective.to(device)
    if known is not None and parts is not None:
        _read_parts(prepared, folder, objective, known)
    elif several():
        sharding.fill(sharding.all_tensors(objective), tensors)
        vars(objective.model).update(told(sharding.measures(objective) if main else {}))
    if known is not None:
        report = [*report, f"resuming from step {known.step}"]
    return objective, checkpoint if main else known, report


def buffers(objective: Objective) -> dict[str, Tensor]:
    """Return the buffers that are not among an objective's weights, such as tables of positions."""
    weights = objective.state_dict()
    return {name: buffer for name, buffer in objective.named_buffers() if name not in weights}


def _read_parts(prepared: Prepared, folder: Path, objective: Objective, checkpoint: Checkpoint) -> None:
    """Read a checkpoint in parts into a divided objective, and send it the frozen weights that it does not have."""
    targets = {shard_files.WEIGHTS + name: target for name, target in objective.state_dict().items()}
    targets |= {shard_files.BUFFERS + name: buffer for name, buffer in buffers(objective).items()}
    assert checkpoint.parts is not None
    shard_files.read(checkpoint.parts, targets)
    vars(objective.model).update(checkpoint.measured or {})
    if isinstance(objective.model, ForeignBackbone) and objective.model.frozen:
        with failing_together():
            main = prepared.accelerator.is_main_process
            base = read_base(folder, prepared.metadata, objective.model) if main else {}
        frozen = {name: objective.model.inner.get_parameter(name) for name in objective.model.frozen}
        sharding.fill(frozen, base)


def _with_weights(prepared: Prepared, folder: Path, checkpoint: Checkpoint | None) -> Objective:
    """Return the objective with the weights of a checkpoint, or, without one, of the run's start."""
    recipe, metadata = prepared.recipe, prepared.metadata
    if checkpoint is None:
        return build.build_objective(recipe, prepared.vocabulary, metadata.labels, load_model)[0]
    # A warm start's checkpoint is not read again: its files may be gone, and these weights replace it.
    model = untrained(metadata.architecture)
    objective = build.objective_of(recipe, model, prepared.vocabulary, metadata.labels, load_model)
    if checkpoint.file is not None:
        check_weights(folder, metadata, checkpoint.file)
        check_tensors(objective, checkpoint.weights, checkpoint.file)
    load_base(folder, metadata, model)
    objective.load_state_dict(checkpoint.weights)
    return objective


def _without_weights(prepared: Prepared, is_divided: bool) -> Objective:
    """Return the objective that the main process fills: on "meta", unless each process gets all of it."""
    recipe, metadata = prepared.recipe, prepared.metadata
    model = (without_weights if is_divided else untrained)(metadata.architecture)
    return build.objective_of(recipe, model, prepared.vocabulary, metadata.labels, load_model)


def wrap(prepared: Prepared, objective: Objective) -> Module:
    """Return the objective as updates call it: with accelerate's precision and, unless it is sharded, under DDP."""
    model: Module = prepared.accelerator.prepare_model(
        objective,
        evaluation_mode=prepared.metadata.sharding == "full",  # sharded, it exchanges gradients by itself
    )
    return model
