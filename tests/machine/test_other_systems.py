"""Nothing of Linux alone is needed: locks, cores, folder syncs, links and /proc, each where it is."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import tiny_runs
import torch

import s2s
from s2s.errors import UserError
from s2s.files import atomic
from s2s.files.locks import Lock
from s2s.machine import c_library, worker_pool
from s2s.training.launch import read_launch

HELPERS = Path(__file__).parents[1] / "helpers"
CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_processor_is_all_it_takes(tmp_path: Path) -> None:
    paths = [HELPERS / "other_system", HELPERS, CHECKOUT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HELPERS / "elsewhere_worker.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["modules"]) > 200
    assert {"s2s.train", "s2s.decoding.resumable_output", "s2s.data.cache", "s2s.serve.worker"} <= set(found["modules"])
    assert found | {"modules": []} == {"modules": [], "steps": [1, 2, 3, 4], "lines": [2, 2], "status": 200}
    assert "no file locks here (this Python has no flock)" in done.stderr
    assert not list(tmp_path.rglob("*.held"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_disks_without_locks_have_marker_files(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.take(wait=False)
    assert f"{tmp_path / 'lock'}: no file locks here ({os.strerror(number)})" in caplog.text
    assert not second.take(wait=False)
    first.free()
    assert second.take(wait=True)
    second.free()
    assert not (tmp_path / "lock.held").exists()


@pytest.mark.slow
def test_a_marker_whose_holder_was_killed_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelock, "has_fcntl", False)
    code = """
import filelock, os, sys
from pathlib import Path
filelock.has_fcntl = False
from s2s.files.locks import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.take(wait=False)
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], stderr=subprocess.DEVNULL)
    assert (tmp_path / "lock.held").exists()
    lock = Lock(tmp_path / "lock")
    assert lock.take(wait=True)
    lock.free()


def test_cores_are_those_that_the_system_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    assert worker_pool.cores() == 3
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert worker_pool.cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert worker_pool.cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert worker_pool.cores() == 1


def test_a_gpu_of_apple_is_taken_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    auto, asked = read_launch({}), read_launch({}, asked="mps")
    assert (auto.device, asked.device, read_launch({}, asked="cpu").device) == ("cpu", "mps", "cpu")
    assert auto.notes == ("on the processor: Apple's GPU has no float64; run.device=mps tries it all the same",)
    assert len(asked.notes) == 1
    with pytest.raises(
        UserError, match=r"^run\.device: torch sees no 'cuda' on this machine; valid here: auto, cpu, mps"
    ):
        read_launch({}, asked="cuda")
    with pytest.raises(UserError, match=r"^run\.device: mps, but ACCELERATE_USE_CPU asks for the processor"):
        read_launch({"ACCELERATE_USE_CPU": "true"}, asked="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert read_launch({}).notes == ()
    with pytest.raises(UserError, match=r"^run\.device: torch sees no 'mps' on this machine; valid here: auto, cpu$"):
        read_launch({}, asked="mps")


def test_a_run_may_go_on_with_another_device_key(tmp_path: Path) -> None:
    s2s.fit(tiny_runs.recipe(tmp_path, "run.steps=1"))
    assert s2s.fit(tiny_runs.recipe(tmp_path, "run.steps=2", "run.device=cpu")).recipe.run.device == "cpu"
    with pytest.raises(UserError, match=r"run\.device"):
        tiny_runs.recipe(tmp_path, "run.device=gpu")


def test_folders_are_synced_where_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def fail(number: int) -> None:
        def fsync(descriptor: int) -> None:
            synced.append(descriptor)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        fail(number)
        atomic.sync_folder(tmp_path)
    fail(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        atomic.sync_folder(tmp_path)
    assert len(synced) == 4


def test_processors_are_told_apart_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert any(c_library._abilities())
