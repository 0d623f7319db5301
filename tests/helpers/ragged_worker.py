"""Training on this process's GPU without masks, by a slow kernel in torch's place: python ragged_worker.py FOLDER.

The folder gets ragged.json: the ways of attention that runs choose, how far updates and runs without masks are from
those of the processor, and how often they called the kernel.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slow_flash
import torch
from devices_worker import TRAINED, compared, twins
from mitigations_worker import TINY, few, objective, update
from tiny_runs import log

import s2s
from s2s.batch import Batch
from s2s.machine.paths import computing
from s2s.model import Architecture
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe
from s2s.runs import gpu_paths
from s2s.runs.metadata import read_metadata
from s2s.vocabulary import Vocabulary

SIZES = ["model={layers: 2, width: 16, heads: 2, dropout: 0.0}", "data.max_source=20", "data.max_target=9"]
METHODS = ("", "random_replacement", "scheduled_sampling", "fgm_all", "r_drop_target", "gradient_penalty", "mixce")
WITHOUT_MASKS = {"gpu_attention": "varlen"}


@contextmanager
def seconds(mask: float, varlen: float) -> Iterator[None]:
    """Let measurements find these seconds, and be made anew."""
    before = gpu_paths.timed
    gpu_paths.measured.cache_clear()
    gpu_paths.timed = lambda *_: {"mask": mask, "varlen": varlen}
    try:
        yield
    finally:
        gpu_paths.timed = before


def choice(*keys: str, shape: Any = None, precision: str = "bf16", saved: Any = None) -> list[str]:
    """The way that a run takes, or none, and the reason."""
    recipe = Recipe.load("toy_copy", [*SIZES, "run.tokens=200", *keys])
    shape = shape or Architecture(30, 2, 16, 2, 32, positions=80)
    device = torch.device("cuda")
    with seconds(3.0, 1.5):
        ways, reason = gpu_paths.choose_on_gpu(recipe, shape, 1, precision, device, saved or {})
    return [ways.get("gpu_attention", ""), reason]


def choices() -> dict[str, list[str]]:
    found = {"no kernel": choice()}
    library = slow_flash.install(wrong=True)
    found["a wrong kernel"] = choice()
    library._destroy()
    keep.append(slow_flash.install())
    with seconds(1.0, 1.0):
        found |= {"a faster kernel": choice(), "in float16": choice(precision="fp16")}
    gpu_paths.measured.cache_clear()
    found["timed"] = [gpu_paths.measured(Architecture(30, 2, 16, 2, 32), "bf16", torch.device("cuda"), 2, 9, 4)[0]]
    slots = Architecture(30, 2, 16, 2, 32, attention="dense", source_slots=20, target_slots=20)
    return found | {
        "pinned": choice("run.paths={gpu_attention: varlen}", precision="fp32"),
        "in float32": choice(precision="fp32"),
        "compiled": choice("run.compile=true"),
        "a Synthesizer": choice(shape=slots),
        "saved": choice(saved={"products": "tf32", "gpu_attention": "mask"}),
        "saved before there were ways": choice(saved={"products": "tf32"}),
    }


def updates(folder: Path, vocabulary: Vocabulary, batch: Batch) -> Iterator[tuple[str, dict[str, float]]]:
    """Updates of methods and of ways to keep activations."""
    for name in METHODS:
        made = objective(few(name, folder) if name else "", vocabulary)
        yield name or "teacher_forcing", counted(made, batch)
    for name in CHECKPOINTING:
        recipe = Recipe.load("toy_copy", [*TINY, f"run.checkpointing={name}"])
        yield f"checkpointing {name}", counted(build_objective(recipe, vocabulary)[0], batch)


def counted(module: Any, batch: Batch) -> dict[str, float]:
    slow_flash.calls.clear()
    with computing(WITHOUT_MASKS):
        found = compared(twins(module), batch, "bf16")
    return found | slow_flash.calls


def runs(folder: Path) -> dict[str, Any]:
    """A run that finds the kernel faster, goes on after it would find it slower, and one with masks."""

    def trained(name: str, *keys: str) -> s2s.Run:
        own = ["run.precision=bf16", f"run.folder={folder / name}", *keys]
        return s2s.fit(Recipe.load("toy_copy", [*TRAINED, *SIZES, *own]))

    slow_flash.calls.clear()
    with seconds(2.0, 1.0):
        trained("ragged", "run.steps=2")
    first = read_metadata(folder / "ragged")
    with seconds(1.0, 2.0):
        trained("ragged", "run.steps=3")
        calls = slow_flash.calls["backward"]
        trained("masked", "run.steps=3")
    losses = [[line["loss"] for line in log(folder / name) if "loss" in line] for name in ("ragged", "masked")]
    files = [first, *(read_metadata(folder / name) for name in ("ragged", "masked"))]
    lines = [line for line in first.report if "gpu_attention" in line]
    ways = [metadata.paths for metadata in files]
    return {"ways": ways, "lines": lines, "losses": losses, "calls": calls}


keep = list[slow_flash.Operators]()
"""The operators live no longer than these."""

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    s2s.fit(Recipe.load("toy_copy", [*TINY, "run.device=cpu", "run.steps=2", f"run.folder={folder / 'reference'}"]))
    found = {"choices": choices(), "updates": dict(updates(folder, *update(folder))), "runs": runs(folder)}
    (folder / "ragged.json").write_text(json.dumps(found), encoding="utf-8")
