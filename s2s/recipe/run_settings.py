"""A recipe's ``run:``: how long, on which device and in which folder it trains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from s2s.config.ranges import Count, Few, Limit, PathText, Seed, ShareBelowOne, at_least, settle
from s2s.errors import UserError, nearest
from s2s.machine.paths import GPU_WAYS, WAYS
from s2s.model.activation_checkpointing import CHECKPOINTING


@dataclass
class RunSettings:
    """A recipe's ``run:``; a step is one update of the weights."""

    folder: PathText = "runs/unnamed"  # of all that the run writes; the same folder again resumes it
    seed: Seed = 0  # of weights, order, dropout and draws
    steps: Count = 1000  # updates of the whole run
    tokens: Count = 4096  # of one update: source and target columns, padding included
    accumulate: Few = 1  # micro-batches that each process splits its part of an update into
    processes: Few | None = None  # that share an update; null: those that were launched; a number has to be theirs
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: CUDA's GPU, or else the processor
    # auto: what the launcher asks for; else fp32 on CPU, and on a GPU bf16 if it computes in it, else fp16, or fp32 if
    # it is old
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tf32: bool = True  # GPUs may round the factors of float32 products to TF32, which is faster
    # ways that are taken unmeasured on a processor, such as {attention: torch}: products (default, onednn), linear and
    # packed (onednn, torch), few and int8 (c, onednn), attention and adafactor (c, torch), and on a GPU gpu_attention
    # (mask, varlen); the others are timed when the run is made, and kept
    paths: dict[str, Any] = field(default_factory=dict)
    # full: processes divide parameters, gradients and optimizer state among them (FSDP2), so that larger models fit;
    # null: if the launcher asks (accelerate launch --use_fsdp --fsdp_version 2)
    sharding: Literal["none", "full"] | None = None
    # what a block keeps for the backward pass: a row of s2s.model.activation_checkpointing.CHECKPOINTING
    checkpointing: str = "none"
    checkpointing_every: Count = 1  # apply it to every n-th block
    compile: bool | None = None  # torch.compile makes blocks faster, and rounds otherwise; null: if the launcher asks
    fused_loss: bool = False  # teacher forcing's loss by Liger's kernel on a GPU, which rounds otherwise
    clip: Limit = 1.0  # largest norm of the gradient
    ema: ShareBelowOne | None = None  # decay of a moving average of weights, evaluated and loaded in their place; 0.999
    average: Count | None = None  # at the end, the mean of this many checkpoints becomes the checkpoint "average"
    save_every: Count = 200  # steps
    # whole: each tensor of a checkpoint in one piece, which the main process gathers; sharded: each process writes its
    # own parts, for models that fit in no process. Runs resume from either, on any number of processes
    checkpoint_format: Literal["whole", "sharded"] = "whole"
    # newest checkpoints that stay, besides the best; if the newest is damaged, the run resumes at the one before
    keep: Annotated[int, at_least(2)] = 2
    evaluate_every: Count = 500  # steps
    patience: Count | None = None  # the run ends after this number of evaluations without a better one
    trackers: list[str] = field(default_factory=list)  # that also record each step: tensorboard, wandb, ...
    evaluate_examples: Count = 200  # of the dev split, decoded at each evaluation; the loss is over all of it
    # what best means: loss, rouge_1, rouge_2, rouge_l (or rouge_l_char ...), bleu, chrf, or a head's, such as
    # tags.accuracy; of equal scores the later one, which patience counts as no better
    select: str = "rouge_l"

    def __post_init__(self) -> None:
        settle(self, "run.")
        check_ways(self.paths, "run.paths")
        if self.checkpointing not in CHECKPOINTING:
            raise UserError(f"run.checkpointing: no '{self.checkpointing}'{nearest(self.checkpointing, CHECKPOINTING)}")
        if self.compile and self.checkpointing not in ("none", "block"):
            raise UserError(f"run.compile: with run.checkpointing none or block, not '{self.checkpointing}'")
        if self.sharding == "full":
            refuse_with_sharding(bool(self.compile), self.precision)


def check_ways(ways: Mapping[str, Any], key: str) -> None:
    """Refuse paths and ways that there are not; ``key`` is that of the mapping in a recipe or a file."""
    table = WAYS | GPU_WAYS
    for path, name in ways.items():
        if path not in table:
            raise UserError(f"{key}: no path '{path}'{nearest(path, table)}")
        if name not in table[path]:
            raise UserError(f"{key}.{path}: '{name}' is neither {' nor '.join(table[path])}")


def refuse_with_sharding(compiled: bool, precision: str) -> None:
    """Refuse what gives wrong results, or is untried, where processes divide the parameters among them."""
    if precision == "fp16":
        raise UserError(
            "run.sharding: full not in fp16 (run.precision), where a gradient may overflow that one process alone "
            "holds; bf16 and fp32 work"
        )
    if compiled:
        raise UserError(
            "run.sharding: full not with run.compile, whose compiled blocks would read parameters that are whole only "
            "for a moment; set run.compile=false"
        )
