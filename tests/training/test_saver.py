"""Checkpoints written by a thread: what they hold, errors of writing, and a kill in the middle of one."""

import json
import threading
from pathlib import Path

import pytest
import torch
from fake_devices import needs_fake_cuda, on_devices, run
from tiny_runs import TINY, assert_same_end, largest_file, log, place, ready

from s2s.errors import UserError
from s2s.runs import checkpoints
from s2s.runs.checkpoints import Best, Checkpoint
from s2s.training.saver import Saver, on_host

STEPS = 8


def checkpoint(step: int, weight: torch.Tensor) -> Checkpoint:
    state = {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": weight / 2}}, "param_groups": [{"lr": 0.1}]}
    return Checkpoint(step, {"weight": weight}, state, Best(step, 1.0), ema={"weight": 2 * weight})


def write(saver: Saver, checkpoint: Checkpoint) -> None:
    saver.save(checkpoint, 2)
    saver.finish()


def test_a_copy_shares_no_memory() -> None:
    original = checkpoint(3, torch.ones(4))
    copy = on_host(original)
    for tensor in (original.weights["weight"], original.ema["weight"], *original.optimizer["state"][0].values()):
        tensor.fill_(7)
    original.optimizer["param_groups"][0]["lr"] = 7
    assert copy.weights["weight"].tolist() == [1] * 4
    assert copy.ema["weight"].tolist() == [2] * 4
    assert copy.optimizer["state"][0]["exp_avg"].tolist() == [0.5] * 4
    assert copy.optimizer["state"][0]["step"] == 3
    assert copy.optimizer["param_groups"] == [{"lr": 0.1}]
    assert (copy.step, copy.best) == (3, Best(3, 1.0))


@pytest.mark.slow
def test_a_checkpoint_holds_the_weights_of_its_step_whatever_comes_after(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(base, tmp_path / "run")
    gate, save = threading.Event(), checkpoints.save

    def later(*arguments: object) -> None:
        assert gate.wait(60)
        save(*arguments)

    monkeypatch.setattr(checkpoints, "save", later)
    weight, before = torch.ones(4), threading.active_count()
    with Saver(tmp_path / "run", in_thread=True) as saver:
        saver.save(checkpoint(1, weight), 2)
        weight.fill_(9)  # as the next update does
        assert saver.failure is None
        assert checkpoints.newest(tmp_path / "run")[0] is None
        gate.set()
        saver.save(checkpoint(2, weight), 2)
        saver.finish()
    assert threading.active_count() == before
    for step, expected in ((1, 1), (2, 9)):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        assert checkpoints.read_tensors(folder / "weights.safetensors")["weight"].tolist() == [expected] * 4


@pytest.mark.slow
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_full_disk_is_told_once_and_the_checkpoint_before_is_whole(
    in_thread: bool, base: Path, tmp_path: Path
) -> None:
    ready(base, tmp_path / "run")
    with Saver(tmp_path / "run", in_thread) as saver:
        write(saver, checkpoint(1, torch.ones(4)))
        with largest_file(10_000), pytest.raises(UserError, match=r"step-00000002: cannot be written \(File too large"):
            write(saver, checkpoint(2, torch.ones(40_000)))
        assert saver.failure is None
        saver.finish()
    assert checkpoints.newest(tmp_path / "run")[0].step == 1


@pytest.mark.slow
def test_a_failure_is_known_without_waiting(base: Path, tmp_path: Path) -> None:
    ready(base, tmp_path / "run")
    with largest_file(10_000), Saver(tmp_path / "run", in_thread=True) as saver:
        saver.save(checkpoint(1, torch.ones(40_000)), 2)
        saver.pool.shutdown(wait=True)
        assert "step-00000001: cannot be written (File too large)" in saver.failure


KILLED = """
import json, os, signal, sys, time
import s2s
from s2s import train
from s2s.runs import checkpoints

events, real_update, real_save_tensors = [], train.update, checkpoints.save_tensors

def save_tensors(file, tensors, step, identity):
    real_save_tensors(file, tensors, step, identity)
    if step == 4:
        events.append("writing")
        time.sleep(600)

def update(prepared, wrapped, state, made):
    record = real_update(prepared, wrapped, state, made)
    while state.step == 5 and not events:
        time.sleep(0.01)
    if state.step == 6:  # its checkpoint would wait for that of step 4
        os.kill(os.getpid(), signal.SIGKILL)
    return record

checkpoints.save_tensors, train.update = save_tensors, update
s2s.fit(s2s.Recipe.load("toy_copy", sys.argv[1:]))
"""


@pytest.mark.slow
@needs_fake_cuda
def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """Updates run while step 4 is written; after the kill the run goes on from step 2, to the end of an undisturbed."""
    keys = [*TINY, "run.save_every=2", f"run.steps={STEPS}", "run.ema=0.9"]
    environment = on_devices(1)
    whole, folder = tmp_path / "whole", tmp_path / "run"
    done = run(["-m", "s2s.train", "recipe=toy_copy", *keys, f"run.folder={whole}"], environment)
    assert done.returncode == 0, done.stderr
    killed = run(["-c", KILLED, *keys, f"run.folder={folder}"], environment)
    assert killed.returncode == -9, killed.stderr
    assert checkpoints.newest(folder)[0].step == 2
    assert not place(folder, 4).exists()
    assert [record["step"] for record in log(folder)] == [1, 2, 3, 4, 5]
    done = run(["-m", "s2s.train", "recipe=toy_copy", *keys, f"run.folder={folder}"], environment)
    assert done.returncode == 0, done.stderr
    assert "resuming from step 2" in done.stdout
    assert_same_end(folder, whole, STEPS)
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["device"] == "fake cuda"
