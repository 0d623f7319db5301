"""Two launchers with a process each, as on two machines: with one folder for both, and with a folder for each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import device_of_two, steps
from torch import distributed

import s2s
from s2s.errors import UserError
from s2s.machine.agreement import check_shared, decided, failing_together, told

pytestmark = [pytest.mark.slow, pytest.mark.processes]

KEYS = ("data.size=300", "model.width=8", "model.layers=1", "model.heads=2", "run.precision=fp32", "run.tokens=512")


def on_two_nodes(folders: tuple[Path, Path], *arguments: str) -> list["subprocess.CompletedProcess[str]"]:
    """Start a launcher in each folder and return what both printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, folder in enumerate(folders):
        address = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
        command = [sys.executable, *launcher, *address, "-m", "s2s.train", "recipe=toy_copy", *KEYS, *arguments]
        folder.mkdir(exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        )
    ended = []
    for process in started:
        out, error = process.communicate(timeout=900)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return ended


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_nodes_with_one_folder_train_one_run(sharding: str, tmp_path: Path) -> None:
    # A folder of the machines' own has the cache; the run's is named by a path that both know.
    keys = ["run.steps=2", f"run.sharding={sharding}", f"run.folder={tmp_path / 'run'}", device_of_two()]
    first, second = on_two_nodes((tmp_path / "a", tmp_path / "b"), *keys, "run.checkpoint_format=sharded")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert steps(tmp_path / "run") == [1, 2]
    assert s2s.load(tmp_path / "run", "last").step == 2
    assert "2 processes on " in first.stdout
    assert not list((tmp_path / "run").glob(".shared-*"))


def test_two_nodes_without_one_folder_say_so_in_a_line(tmp_path: Path) -> None:
    nodes = tmp_path / "a", tmp_path / "b"
    for ended in on_two_nodes(nodes, "run.steps=2", "run.folder=run", device_of_two()):
        assert ended.returncode != 0
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert errors[0].startswith("error: run.folder: run is not one folder for all processes: on ")
        assert "name a folder of a file system that all machines share" in errors[0]
    assert not (nodes[0] / "run").exists()
    assert not (nodes[1] / "run").exists()


def _agree(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    assert told(f"of {rank}") == "of 0"
    assert decided(lambda: f"by {rank}") == "by 0"
    for failing in (0, 1):
        with pytest.raises(UserError, match=f"^it was {failing}$"), failing_together():
            _fail(rank == failing, UserError(f"it was {rank}"))
    with pytest.raises(UserError, match="no disk"):
        decided(lambda: _fail(True, OSError("no disk")))
    check_shared(Path(folder))
    with pytest.raises(UserError, match="is not one folder for all processes"):
        check_shared(Path(folder) / str(rank))
    distributed.destroy_process_group()


def _fail(fails: bool, error: Exception) -> None:
    if fails:
        raise error


def test_processes_agree_on_what_the_main_one_decides(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    torch.multiprocessing.spawn(_agree, (str(tmp_path),), nprocs=2)
    # The main process removes a folder that it has made for nothing.
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_process_alone_agrees_with_itself(tmp_path: Path) -> None:
    assert (told(3), decided(lambda: 4)) == (3, 4)
    with pytest.raises(OSError, match="no disk"), failing_together():
        _fail(True, OSError("no disk"))
    check_shared(tmp_path)
    assert not list(tmp_path.iterdir())
