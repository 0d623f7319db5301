"""Tiny runs, one after the other, in all processes that are started: python sharding_worker.py NAMES FOLDER KEY=VALUE

NAMES are rows of ``ROWS`` with commas between them. Each is trained to its end, in a folder of its name. Starting
processes takes longer than that.
"""

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from foreign_models import keys

import s2s
from s2s.recipe.recipe import Recipe

TINY = (
    *("data.size=220", "run.precision=fp32"),
    *("run.steps=6", "run.tokens=400", "run.evaluate_every=3", "run.save_every=2", "run.evaluate_examples=3"),
    # In exact numbers the gradient of a key's bias is 0; with an epsilon of 1e-8 AdamW would make whole steps of what
    # rounding leaves of it.
    *("run.keep=9", "optimizer.epsilon=1e-4", "schedule.name=constant", "run.device=cpu"),
)
SMALL = ("model.width=16", "model.layers=2", "model.heads=2", "model.dropout=0")
ROWS: dict[str, tuple[str, ...]] = {
    "plain": SMALL,
    "accumulate": (*SMALL, "run.accumulate=2"),
    "ema": (*SMALL, "run.ema=0.8", "run.average=2"),
    "adafactor": (*SMALL, "optimizer={name: adafactor, rate: 1e-2, beta1: 0.9}"),
    "fgm": (*SMALL, "mitigations=[{name: fgm}]"),
    "mrt": (*SMALL, "mitigations=[{name: mrt, candidates: 2, weight: 0.5}]"),
    "scheduled_sampling": (*SMALL, "mitigations=[{name: scheduled_sampling}]"),
    "recomputation": (*SMALL, "run.checkpointing=block"),
    "synthesizer": (*SMALL, "model.attention=dense+random"),
    "t5": tuple(keys("t5")),
    "llama": (*keys("llama"), "run.checkpointing=block"),
}
"""Keys of each run."""
ROW_OF = {"adamw": "plain"}
"""The rows that train with an optimizer, where they do not bear its name."""
RESUMED = ["ema", "adafactor", "t5"]
"""Runs that are also stopped after four steps, with checkpoints in parts, and resumed."""
if find_spec("peft"):
    ROWS["lora"] = (*keys("llama"), "model.lora={rank: 2, targets: auto}")
    RESUMED.append("lora")
STOPPED = ("run.steps=4", "run.checkpoint_format=sharded")


def keys_of(name: str, folder: Path) -> list[str]:
    tiny = [key for key in TINY if name != "adafactor" or "epsilon" not in key]
    return [*tiny, *ROWS[name], f"run.folder={folder / name}"]


def train(names: Iterable[str], folder: Path, *overrides: str) -> None:
    for name in names:
        s2s.fit(Recipe.load("toy_copy", [*keys_of(name, folder), *overrides]))


if __name__ == "__main__":
    train(sys.argv[1].split(","), Path(sys.argv[2]), *sys.argv[3:])
    if sys.argv[1] == ",".join(ROWS):
        train(RESUMED, Path(sys.argv[2]) / "stopped", *sys.argv[3:], *STOPPED)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
