"""Runs of seconds, in folders that are ready for training: no run measures kernels or trains a vocabulary again."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import s2s
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints
from s2s.runs.checkpoints import AVERAGE, TRAINER, WEIGHTS

TINY = (
    *("data.size=300", "model.width=8", "model.layers=1", "model.heads=2", "model.dropout=0.1", "run.precision=fp32"),
    *("run.evaluate_examples=2", "run.tokens=512", "schedule.warmup=2", "run.steps=12", "run.evaluate_every=100"),
)


def device_of_two() -> str:
    """Return the key that lets two processes train on this machine: each on a GPU of its own, or on the processor."""
    return "run.device=cpu" if torch.cuda.device_count() == 1 else "run.device=auto"


def together(*arguments: str, timeout: float | None = None, processes: int = 2) -> "subprocess.CompletedProcess[str]":
    """Run a Python program in two processes, or more, to its end and return what it printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=timeout, encoding="utf-8"
    )


def saved_by_two(worker: str, folder: Path, *arguments: str) -> list[Any]:
    """Run one of these workers in two processes and return what each has saved in the folder."""
    done = together(str(Path(__file__).with_name(worker)), str(folder), *arguments)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load("toy_copy", [*TINY, f"run.folder={folder}", *overrides])


def train(folder: Path, *overrides: str) -> s2s.Run:
    """A run of three steps whose numbers do not depend on the batch, as in bfloat16 and TF32 on a GPU they would."""
    keys = ("model.width=16", "model.layers=1", "data.size=240", "run.steps=3", "run.evaluate_examples=2")
    precise = ("run.precision=fp32", "run.tf32=false", f"run.folder={folder}")
    return s2s.fit(Recipe.load("toy_copy", [*keys, *precise, *overrides]))


def prepare(folder: Path) -> Path:
    """A run's folder after no steps."""
    s2s.fit(recipe(folder, "run.steps=1"))
    shutil.rmtree(folder / "checkpoints")
    (folder / "log.jsonl").unlink()
    (folder / "curves.svg").unlink(missing_ok=True)
    return folder


def ready(base: Path, folder: Path, *overrides: str) -> Recipe:
    """The recipe of a new run in a folder that has a prepared one's vocabulary and metadata."""
    shutil.copytree(base, folder)
    made = recipe(folder, *overrides)
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    metadata["architecture"]["dropout"] = made.model.dropout
    (folder / "run.json").write_text(json.dumps(metadata | {"precision": made.run.precision}), encoding="utf-8")
    (folder / "recipe.yaml").write_text(made.to_yaml(), encoding="utf-8")
    return made


def arguments(made: Recipe) -> Sequence[str]:
    """The command line of a run that is there already."""
    return [f"recipe={Path(made.run.folder) / 'recipe.yaml'}"]


def log(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log, without times."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in log(folder) if "dev" not in record]


def place(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def state(folder: Path, step: int) -> dict[str, Any]:
    """Every bit of a checkpoint: hashes of tensors, and the rest as it is."""
    at = place(folder, step)
    tensors = {
        f"{file} {key}": value
        for file in (WEIGHTS, AVERAGE)
        if (at / file).exists()
        for key, value in load_file(at / file).items()
    }
    trainer = torch.load(at / TRAINER, map_location="cpu")
    moments = trainer["optimizer"].pop("state")
    tensors |= {f"{index} {key}": value for index, row in moments.items() for key, value in row.items()}
    return {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in tensors.items()} | {
        "rest": trainer
    }


def assert_same_end(folder: Path, undisturbed: Path, step: int) -> None:
    """Both runs have ended alike, to the bit."""
    assert state(folder, step) == state(undisturbed, step)
    assert log(folder) == log(undisturbed)
    assert checkpoints.stored(folder).step == checkpoints.stored(undisturbed).step


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a disk with so little room, no file can grow beyond a size."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
