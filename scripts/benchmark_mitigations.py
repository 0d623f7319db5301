"""Time and memory of a training step of every mitigation against teacher forcing's: ``--help`` lists the options.

A step is forward, backward, clipping and a fused AdamW update, at rate 0, so that all steps meet the same weights. All
rows run in one process, once a round each, in an order that rotates; rounds take the batches in turn. A ratio of time
is the median over rounds of the row's time by teacher forcing's in the same round. Memory is that of parameters,
optimizer and the most of other tensors that live at one time during a step with the longest batch.

With ``--backbone`` the model is a T5 (of ``layers`` in each stack) or a Llama of the same sizes.

``fgm_whole``, ``penalty_whole_target`` (of the prefix LM alone), ``noise_consistency_whole`` and
``scheduled_sampling_whole`` are the rows of those names without what the package shares between passes. ``mrt_8`` has
eight given candidates of each source. The rows ``distillation*`` have a copy of the model as their teacher, whose
weights are not counted; samples of an untrained student do not end, and so are as long as the longest target of all
batches.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import _checkout  # noqa: F401
import torch
from benchmarks import timing
from benchmarks.options import options, parsed
from benchmarks.whole_methods import (
    GivenRisk,
    WholeFastGradient,
    WholeNoiseConsistency,
    WholePenalty,
    WholeScheduledSampling,
)
from torch.nn import Module
from torch.optim import Optimizer

from s2s.batch import Batch
from s2s.data.batches import TokenisedSplit
from s2s.errors import UserError, nearest
from s2s.machine.paths import KERNELS, kernel
from s2s.mitigations import FrozenRun, Mitigation, PreparedMethod, TrainingContext
from s2s.mitigations.adversarial import FastGradient
from s2s.mitigations.consistency import NoiseConsistency, RDrop
from s2s.mitigations.distillation import Distillation
from s2s.mitigations.gradient_penalty import GradientPenalty
from s2s.mitigations.prefix_noise import RandomReplacement
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.mitigations.teaforn import TeacherForcingWithNGrams
from s2s.model import Architecture, PrefixTransformer
from s2s.model.backbone import Backbone
from s2s.model.backbones import untrained
from s2s.model.backbones.configuration import ForeignArchitecture, kind_of, plain
from s2s.model.backbones.configuration import parsed as configuration
from s2s.model.initialization import initialise
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import AdamW
from s2s.runs.paths import faster_kernel
from s2s.vocabulary import Vocabulary

SHARED = ("precision", "kernel", "threads", "batch", "source_tokens", "target_tokens")
"""The options that every row of the JSON bears."""
SHAPE = ("vocabulary", "width", "layers", "heads", "dropout")
"""And those that fix the model."""
NUMBERS = {
    "threads": 1,
    "rounds": 9,
    "warmup": 1,
    "batches": 3,
    "batch": 32,
    "source_tokens": 180,
    "target_tokens": 20,
    "vocabulary": 8000,
    "width": 256,
    "layers": 6,
    "heads": 4,
}
"""Options that are whole numbers, and their defaults."""


BACKBONES = ("prefix_lm", "t5", "llama")


def methods(backbone: str) -> dict[str, tuple[str, Mitigation] | None]:
    """Return the rows of a backbone; each has one method, under its name in recipes, or none."""
    rows = _methods()
    if backbone != "prefix_lm":
        del rows["penalty_whole_target"]  # written for the prefix LM's blocks
    return rows


def _methods() -> dict[str, tuple[str, Mitigation] | None]:
    return {
        "teacher_forcing": None,
        "random_replacement": ("random_replacement", RandomReplacement()),
        "scheduled_sampling": ("scheduled_sampling", ScheduledSampling()),
        "scheduled_sampling_whole": ("scheduled_sampling", WholeScheduledSampling()),
        "fgm_target": ("fgm", FastGradient(scope="target")),
        "fgm_whole": ("fgm", WholeFastGradient(scope="target")),
        "penalty_target": ("gradient_penalty", GradientPenalty(scope="target")),
        "penalty_first_order": ("gradient_penalty", GradientPenalty(scope="target", first_order=True)),
        "penalty_whole_target": ("gradient_penalty", WholePenalty(scope="target")),
        "r_drop_target": ("r_drop", RDrop(scope="target")),
        "r_drop_all": ("r_drop", RDrop(scope="all")),
        "noise_consistency": ("noise_consistency", NoiseConsistency()),
        "noise_consistency_whole": ("noise_consistency", WholeNoiseConsistency()),
        "teaforn_2": ("teaforn", TeacherForcingWithNGrams(passes=2)),
        "mrt_8": ("mrt", GivenRisk(candidates=8)),
        "distillation": ("distillation", Distillation(teacher="teacher", on_policy=0.0)),
        "distillation_on_policy": ("distillation", Distillation(teacher="teacher", on_policy=0.5)),
    }


def objectives(
    model: Backbone, source: int, target: int, rows: Mapping[str, tuple[str, Mitigation] | None]
) -> dict[str, Objective]:
    """Return the objective of each row, of one model, for texts of at most ``source`` and ``target`` tokens."""
    vocabulary, train = cast(Vocabulary, _ids(model)), TokenisedSplit([], [], [])
    teacher = FrozenRun(deepcopy(model).eval().requires_grad_(False), vocabulary)
    context = TrainingContext(vocabulary, lambda: train, source, target, load_model=lambda _: teacher)
    works = {}
    for row, named in rows.items():
        prepared = [] if named is None else [PreparedMethod(*named, named[1].prepare(context))]
        works[row] = Objective(model, ObjectiveSettings(), prepared)
    return works


def _ids(model: Backbone) -> SimpleNamespace:
    """All that methods ask a vocabulary for before the first step."""
    size, ids = model.shape.vocabulary, {"padding": timing.PADDING, "begin": timing.BEGIN, "end": timing.END}
    return SimpleNamespace(size=size, **ids, marks=(), plain_ids=lambda: [*range(timing.PLAIN, size)])


def foreign(arguments: argparse.Namespace, longest: int) -> Backbone:
    """Return a model of ``transformers`` with random weights."""
    vocabulary, width, layers, heads, dropout = (getattr(arguments, name) for name in SHAPE)
    sizes = {
        "t5": {"d_model": width, "d_ff": 4 * width, "d_kv": width // heads, "num_layers": layers, "num_heads": heads},
        "llama": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": longest,
        },
    }
    # Llama has no dropout but that of attention.
    dropouts = {"t5": {"dropout_rate": dropout}, "llama": {"attention_dropout": dropout}}
    special = {"pad_token_id": timing.PADDING, "bos_token_id": timing.BEGIN, "eos_token_id": timing.END}
    family = arguments.backbone
    config = configuration(
        {"model_type": family, "vocab_size": vocabulary, **special, **sizes[family], **dropouts[family]}
    )
    return untrained(ForeignArchitecture(str(kind_of(config)), vocabulary, plain(config))).train()


def build(arguments: argparse.Namespace, longest: int) -> PrefixTransformer:
    """Return a prefix LM from scratch with room for ``longest`` tokens of source and target together."""
    shape = {name: getattr(arguments, name) for name in SHAPE}
    model = PrefixTransformer(Architecture(**shape, feed_forward=4 * arguments.width, positions=longest))
    torch.manual_seed(0)
    initialise(model)
    return model


def step(objective: Module, optimizer: Optimizer, batch: Batch, precision: str) -> None:
    """One training step, as the training loop makes it."""
    torch.manual_seed(0)
    half = torch.autocast(batch.source.device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with half:
        losses = objective(batch)
    losses.total.backward()
    float(torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0))
    optimizer.step()
    optimizer.zero_grad()


def measure(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Return the rows of the JSON."""
    sizes = timing.Sizes(arguments.batch, arguments.source_tokens, arguments.target_tokens)
    lengths = timing.ragged(sizes, arguments.batches)
    batches = [timing.random_batch(part, arguments.vocabulary).to(device) for part in lengths]
    longest = [int(tokens) for tokens in lengths.max(axis=(0, 1))]
    make = build if arguments.backbone == "prefix_lm" else foreign
    model = make(arguments, sum(longest) + 2).to(device)
    optimizer = AdamW(rate=0.0).build(model)

    def work(objective: Module, number: int) -> None:
        step(objective, optimizer, batches[number % len(batches)], arguments.precision)

    every = methods(arguments.backbone)
    rows = {name: every[name] for name in every if name in {next(iter(every)), *(arguments.rows or every)}}
    works = {
        name: partial(work, objective) for name, objective in objectives(model, longest[0], longest[1], rows).items()
    }
    times = timing.interleaved(works, arguments.rounds, arguments.warmup, device)
    resting, last = timing.resting_bytes(model, optimizer), len(batches) - 1
    memory = {name: resting + timing.peak_bytes(partial(work, last), device) for name, work in works.items()}
    shared = {name: getattr(arguments, name) for name in SHARED + SHAPE}
    shared |= {"useful_tokens": int(lengths.sum()) / len(batches), "torch": torch.__version__}
    shared |= {"processor": timing.processor(device), "backbone": arguments.backbone}
    return [{"system": "s2s", **row, **shared} for row in timing.summarised(times, memory)]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = options(__doc__, NUMBERS)
    parser.add_argument("--kernel", choices=KERNELS, help="of float32 products; default: the better one")
    parser.add_argument("--backbone", choices=BACKBONES, default="prefix_lm", help="default prefix_lm")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these and teacher_forcing; default: all")
    parser.add_argument("--device", default="auto", help="default auto: a GPU if there is one")
    return parser


def main(texts: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    arguments = parsed(parser(), texts, NUMBERS, may_be_0=["warmup"])
    for row in arguments.rows or ():
        if row not in (known := methods(arguments.backbone)):
            parser().error(f"--rows: no '{row}'{nearest(row, known)}")
    torch.set_num_threads(arguments.threads)
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if arguments.device == "auto" else arguments.device)
    arguments.kernel = arguments.kernel or (faster_kernel() if device.type == "cpu" else "default")
    try:
        with kernel(arguments.kernel):
            rows = measure(arguments, device)
        title = ", ".join(str(rows[0][name]) for name in ("backbone", "processor", "precision", "kernel"))
        timing.show(f"{title} kernel, threads: {arguments.threads}", rows)
        if arguments.json:
            timing.write(arguments.json, rows)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
