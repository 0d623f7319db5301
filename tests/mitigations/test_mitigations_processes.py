"""Every method: two processes with two micro-batches each compute what one computes at once, under DDP and FSDP2.

On the processor, and each on a GPU of its own.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_devices import needs_fake_cuda, on_devices, run
from mitigations_worker import CANCELLING, EXTRA, REFUSED, TINY, gradient, objective, rows, update
from tiny_runs import saved_by_two
from torch import Tensor

import s2s
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.recipe.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.processes]

NAMES = [*MITIGATIONS, *EXTRA]
Gradients = list[dict[tuple[str, str], Any]]
"""Of each process: the gradient under a wrapper and a method, or the message with which it is refused."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    s2s.fit(Recipe.load("toy_copy", [*TINY, "run.steps=2", f"run.folder={folder / 'reference'}"]))
    return folder


@pytest.fixture(scope="module")
def two_by_two(folder: Path) -> Gradients:
    return saved_by_two("mitigations_worker.py", folder)


@pytest.fixture(scope="module")
def two_gpus(folder: Path) -> Gradients:
    worker = str(Path(__file__).resolve().parents[1] / "helpers" / "mitigations_worker.py")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run([*start, worker, str(folder), "cuda"], on_devices(2), timeout=1500)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Tensor]:
    vocabulary, whole = update(folder)
    gradients = {}
    for name, row in rows(folder).items():
        module = objective(row, vocabulary)
        module(whole, 1).total.backward()
        gradients[name] = gradient(module)
    return gradients


def assert_same(name: str, kind: str, processes: Gradients, alone: dict[str, Tensor], limit: float = 1e-6) -> None:
    if name not in REFUSED[kind]:
        for gradients in processes:
            assert (gradients[kind, name] - alone[name]).norm() < limit * alone[name].norm()
    elif kind == "fsdp":
        refusal = f"'{name}' does not run where parameters are sharded"
        assert all(refusal in gradients[kind, name] for gradients in processes)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_the_processes_change_nothing(name: str, kind: str, two_by_two: Gradients, alone: dict[str, Tensor]) -> None:
    assert_same(name, kind, two_by_two, alone)


@needs_fake_cuda
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_two_gpus_change_nothing(name: str, kind: str, two_gpus: Gradients, alone: dict[str, Tensor]) -> None:
    assert_same(name, kind, two_gpus, alone, 5e-4 if name in CANCELLING else 1e-6)


@pytest.mark.parametrize("setting", ["run.processes=2", "run.accumulate=2"])
def test_what_needs_whole_updates_is_refused_by_name(setting: str) -> None:
    with pytest.raises(UserError, match=r"mitigations\[0\]: 'fgm_article': its gradient is that of a whole update"):
        Recipe.load("toy_copy", ["mitigations=[{name: fgm_article}]", setting])
