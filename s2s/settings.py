"""A recipe's ``run:``: how long, on what and where it trains."""

from dataclasses import dataclass, field
from typing import Literal

from s2s.errors import UserError, nearest
from s2s.model.recomputation import CHECKPOINTING

# fmt: off
AT_LEAST_1 = (
    "steps", "tokens", "accumulate", "processes", "save_every", "evaluate_every", "evaluate_examples",
    "checkpointing_every", "average", "patience",
)
# fmt: on


@dataclass
class RunSettings:
    """A recipe's ``run:``; a step is one update of the weights."""

    folder: str = "runs/unnamed"  # what the run leaves behind; the same folder again goes on with it
    seed: int = 0  # of weights, order, dropout and draws
    steps: int = 1000  # updates of the whole run
    tokens: int = 4096  # of one update: source and target columns, padding included
    accumulate: int = 1  # micro-batches that an update is dealt to, in each process
    processes: int = 1  # that share an update; compared with those that came up
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it, else fp32
    checkpointing: str = "none"  # what blocks keep for the backward: a row of s2s.model.recomputation.CHECKPOINTING
    checkpointing_every: int = 1  # in every so many-th block
    compile: bool = False  # let torch.compile make the blocks faster; their bits are not those of plain ones
    fused_loss: bool = False  # Liger's kernel on a GPU computes teacher forcing's loss; its bits are not ours
    clip: float = 1.0  # largest norm of the gradient
    ema: float | None = None  # decay of a moving average of the weights, evaluated and loaded in their place; 0.999
    average: int | None = None  # at the end, the mean of the last so many checkpoints becomes the checkpoint "average"
    save_every: int = 200  # steps
    keep: int = 2  # so many of the newest checkpoints stay, and the best one
    evaluate_every: int = 500  # steps
    patience: int | None = None  # the run ends after so many evaluations without a better one
    trackers: list[str] = field(default_factory=list)  # also told of each step: tensorboard, wandb, ...
    evaluate_examples: int = 200  # of the dev split, decoded at each evaluation; the loss is over all of it
    # what best means: loss, rouge_1, rouge_2, rouge_l, bleu, chrf, or a head's, such as tags.accuracy
    select: str = "rouge_l"

    def __post_init__(self) -> None:
        for name in AT_LEAST_1:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"run.{name}: {getattr(self, name)} is not at least 1")
        if self.keep < 2:
            raise UserError(f"run.keep: {self.keep} is not at least 2; the one before a damaged checkpoint is needed")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"run.ema: {self.ema} is not in [0, 1)")
        if not self.folder.strip() or "\0" in self.folder:
            raise UserError(f"run.folder: {self.folder!r} is not the name of a folder")
        if self.checkpointing not in CHECKPOINTING:
            raise UserError(f"run.checkpointing: no '{self.checkpointing}'{nearest(self.checkpointing, CHECKPOINTING)}")
        if self.compile and self.checkpointing not in ("none", "block"):
            raise UserError(f"run.compile: with run.checkpointing none or block, not '{self.checkpointing}'")
        if not self.clip > 0:
            raise UserError(f"run.clip: {self.clip} is not above 0")
