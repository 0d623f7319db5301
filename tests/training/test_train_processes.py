"""Whole runs on two processes: equal to one process, with a moving average, after a change of processes, and ending."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import device_of_two, log, place, ready, together
from torch import Tensor

import s2s
from s2s.runs.checkpoints import AVERAGE, WEIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.processes]

# In exact numbers the gradient of a key's bias is 0; with an epsilon of 1e-8 AdamW would make whole steps of what
# rounding leaves of it.
KEYS = (
    *("model.dropout=0", "run.ema=0.8", "run.save_every=4", "run.steps=8", "optimizer.epsilon=1e-4"),
    *("run.tf32=false", device_of_two()),
)


def vector(folder: Path, step: int, file: str) -> Tensor:
    weights = load_file(place(folder, step) / file)
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def test_a_run_that_goes_on_with_two_processes_equals_one_with_one(base: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    s2s.fit(ready(base, one, *KEYS))
    made = ready(base, two, *KEYS)
    s2s.fit(made)
    for name in ("best", "last"):
        (two / "checkpoints" / name).unlink()
    for path in place(two, 8).iterdir():
        path.unlink()
    place(two, 8).rmdir()
    done = together("-m", "s2s.train", f"recipe={two / 'recipe.yaml'}", "run.processes=2", timeout=500)
    assert done.returncode == 0, done.stderr
    assert "resuming with changes (processes 1 -> 2): the examples stay, bits may differ" in done.stdout
    for file in (WEIGHTS, AVERAGE):
        ours, theirs = vector(two, 8, file), vector(one, 8, file)
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()
    for ours, theirs in zip(log(two), log(one), strict=True):
        for name in {"loss", "norm"} & theirs.keys():  # type: ignore[attr-defined]
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_all_processes(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ready(base, folder, "optimizer={rate: 1e9, decay: 1e9}", "run.save_every=1", "run.processes=2", device_of_two())
    done = together("-m", "s2s.train", f"recipe={folder / 'recipe.yaml'}", timeout=500)
    assert done.returncode == 1
    assert done.stderr.count("loss nan, norm of the gradient nan; its batch, in epoch 0, has the train examples") == 2
    assert s2s.load(folder, "last").step >= 1
