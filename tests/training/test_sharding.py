"""Processes that divide all parameters among them (``run.sharding: full``) train as one that holds all of them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_devices import needs_fake_cuda, on_devices, run
from safetensors.torch import load_file
from sharding_worker import RESUMED, ROW_OF, ROWS, keys_of, train
from tiny_runs import largest_file, log, place, ready, recipe, together
from torch import Tensor

import s2s
from s2s.errors import UserError
from s2s.optim import OPTIMIZERS
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints, shard_files
from s2s.runs.checkpoints import AVERAGE, TRAINER, WEIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.processes]

WORKER = Path(__file__).parents[1] / "helpers" / "sharding_worker.py"


def worked(processes: int, names: str, folder: Path, *keys: str) -> str:
    done = together(str(WORKER), names, str(folder), *keys, timeout=1500, processes=processes)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    worked(2, ",".join(ROWS), folder, "run.sharding=full")
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(ROWS, folder)
    return folder


def vector(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    return float((vector(ours) - vector(theirs)).norm() / vector(theirs).norm())


def assert_same_weights(ours: Path, theirs: Path, step: int) -> None:
    # AdaFactor divides by its own moments, which rounding moves more.
    allowed = 1e-5 if theirs.name == "adafactor" else 1e-6
    for file in (WEIGHTS, AVERAGE):
        if (place(theirs, step) / file).exists():
            assert distance(load_file(place(ours, step) / file), load_file(place(theirs, step) / file)) < allowed


@pytest.mark.parametrize("name", ROWS)
def test_two_sharded_processes_equal_one(name: str, sharded: Path, alone: Path) -> None:
    two, one = sharded / name, alone / name
    for ours, theirs in zip(log(two), log(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key in {"loss", "nll"} & ours.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-6)
        if "dev" in ours:
            assert ours["dev"] == pytest.approx(theirs["dev"], rel=1e-6)
    for step in (2, 4, 6):
        assert_same_weights(two, one, step)
        ours, theirs = (torch.load(place(folder, step) / TRAINER)["optimizer"] for folder in (two, one))
        assert ours["param_groups"] == theirs["param_groups"]
        for number, state in theirs["state"].items():
            parts = ours["state"][number], state
            assert distance(*({key: torch.as_tensor(value) for key, value in part.items()} for part in parts)) < 1e-4


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_in_parts_is_read_whole(name: str, sharded: Path, alone: Path) -> None:
    folder = sharded / "stopped" / name
    assert len(shard_files.parts(place(folder, 4))) == 2
    assert not (place(folder, 4) / WEIGHTS).exists()
    theirs = load_file(place(alone / name, 4) / (AVERAGE if name == "ema" else WEIGHTS))
    assert distance(checkpoints.stored(folder, "last").tensors, theirs) < 1e-5
    assert s2s.load(folder, "last").step == 4
    assert len(checkpoints.fingerprint(folder, "last")) == 64
    states = torch.load(place(alone / name, 4) / TRAINER)["optimizer"]["state"].values()
    moments = [value for state in states for value in state.values() if isinstance(value, torch.Tensor) and value.ndim]
    numbers = (place(folder, 4) / TRAINER).stat().st_size
    assert checkpoints.trainer_bytes(folder) - numbers == sum(moment.nbytes for moment in moments) > 0


@pytest.mark.parametrize(("processes", "sharding"), [(1, "full"), (2, "none"), (3, "full")])
def test_it_resumes_on_any_number_of_processes(
    processes: int, sharding: str, sharded: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in RESUMED:
        shutil.copytree(sharded / "stopped" / name, tmp_path / name)
    # A checkpoint that is whole is resumed in the same way.
    shutil.copytree(sharded / "plain", tmp_path / "plain")
    shutil.rmtree(place(tmp_path / "plain", 6))
    names, key = [*RESUMED, "plain"], f"run.sharding={sharding}"
    if processes == 1:
        train(names, tmp_path, key)
        told = capsys.readouterr().out
    else:
        told = worked(processes, ",".join(names), tmp_path, key)
    changes = [f"processes 2 -> {processes}"] * (processes != 2) + ["sharding full -> none"] * (processes < 3)
    assert told.count(f"resuming with changes ({', '.join(changes)}): the examples stay, bits may differ") == len(names)
    assert told.count("resuming from step 4") == len(names)
    for name in names:
        assert_same_weights(tmp_path / name, alone / name, 6)


def started(rank: int, port: int, *arguments: str) -> "subprocess.Popen[bytes]":
    group = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=os.environ | group | address, stdout=subprocess.DEVNULL)


def test_killed_processes_resume_at_their_last_parts(tmp_path: Path) -> None:
    keys = ("run.steps=40", "run.evaluate_every=40", "run.save_every=1", "run.sharding=full", "run.keep=2")
    parts = (*keys, "run.checkpoint_format=sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [started(rank, port, str(WORKER), "plain", str(tmp_path), *parts) for rank in range(2)]
    path = tmp_path / "plain" / "log.jsonl"
    # Not at a moment that is chosen: a save takes most of a step's time here.
    while not path.exists() or path.read_bytes().count(b"\n") < 5:
        assert all(process.poll() is None for process in both)
        time.sleep(0.05)
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = checkpoints.whole(tmp_path / "plain")[-1]
    assert 3 <= checkpoints.step_of(last) < 40
    worked(2, "plain", tmp_path, *keys)
    train(["plain"], tmp_path / "undisturbed", *keys)
    assert [line["step"] for line in log(tmp_path / "plain")] == [*range(1, 41), 40]
    weights = (load_file(place(folder / "plain", 40) / WEIGHTS) for folder in (tmp_path, tmp_path / "undisturbed"))
    assert distance(*weights) < 1e-5


TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


ON_GPUS = [*(ROW_OF.get(name, name) for name in OPTIMIZERS), "ema", "t5"]
"""Rows that also run on two GPUs: one of every optimizer, and the others that keep more weights or are foreign."""


@pytest.fixture(scope="module", params=["full", "none"])
def two_gpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"gpus_{request.param}")
    keys = [f"run.sharding={request.param}", "run.device=auto", "run.tf32=false"]
    done = run([*TWO, str(WORKER), ",".join(ON_GPUS), str(folder), *keys], on_devices(2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes on cuda") == len(ON_GPUS)
    return folder


@needs_fake_cuda
@pytest.mark.parametrize("name", ON_GPUS)
def test_two_gpus_equal_the_processor(name: str, two_gpus: Path, alone: Path) -> None:
    assert_same_weights(two_gpus / name, alone / name, 6)


@needs_fake_cuda
def test_layers_that_are_gathered_in_bfloat16_train_as_one_gpu_does(tmp_path: Path) -> None:
    for devices, start, keys in ((2, TWO, ["run.sharding=full"]), (1, [], [])):
        folder = tmp_path / str(devices)
        settings = ["run.device=auto", "run.precision=bf16", *keys]
        done = run([*start, str(WORKER), "plain,t5,llama", str(folder), *settings], on_devices(devices))
        assert done.returncode == 0, done.stderr
    for name in ("plain", "t5", "llama"):
        ours, theirs = (load_file(place(tmp_path / devices / name, 6) / WEIGHTS) for devices in ("2", "1"))
        assert 0 < distance(ours, theirs) < 5e-3


@needs_fake_cuda
def test_an_update_takes_a_little_more_than_half_the_memory(tmp_path: Path) -> None:
    worker = str(WORKER.with_name("sharding_memory_worker.py"))
    # As deep as a model of 100M parameters, and narrower: a layer that is gathered is a small part of it.
    size = ["model.width=192", "model.layers=30"]
    one = run([worker, str(tmp_path / "one"), *size], on_devices(1))
    two = run([*TWO, worker, str(tmp_path / "two"), *size, "run.sharding=full"], on_devices(2))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    (whole,) = map(int, re.findall(r"^rank 0: (\d+)$", one.stdout, re.MULTILINE))
    parts = [int(size) for size in re.findall(r"^rank [01]: (\d+)$", two.stdout, re.MULTILINE)]
    assert len(parts) == 2
    assert max(parts) < 0.6 * whole


def test_parts_that_are_damaged_or_of_another_run_are_not_read(sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded / "stopped" / "ema", tmp_path / "run")
    _, second = shard_files.parts(place(folder, 4))
    size = second.stat().st_size
    os.truncate(second, size - 1)
    checkpoint, lines = checkpoints.newest(folder)
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert lines[0].startswith(f"{place(folder, 4)}: damaged ({second.name} has {size - 1} of {size} bytes)")
    second.unlink()
    with pytest.raises(UserError, match=f"{second.name} is missing"):
        checkpoints.stored(folder, "last")
    other = place(sharded / "stopped" / "t5", 4)
    shutil.rmtree(place(folder, 4))
    shutil.copytree(other, place(folder, 4))
    with pytest.raises(UserError, match="of another run"):
        s2s.fit(Recipe.load("toy_copy", [*keys_of("ema", tmp_path / "elsewhere"), f"run.folder={folder}"]))


@needs_fake_cuda
def test_accelerates_fsdp_is_full_sharding(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    keys = ["data.size=220", "model.width=16", "run.steps=1", "run.tokens=400", "run.evaluate_examples=1"]
    command = [*launcher, "-m", "s2s.train", "recipe=toy_copy", *keys, f"run.folder={tmp_path / 'run'}"]
    done = run(command, on_devices(2))
    assert done.returncode == 0, done.stderr
    assert "2 processes on cuda (fake cuda), which divide the parameters among them" in done.stdout
    assert "not used" not in done.stdout


def test_a_process_alone_writes_one_part_and_resumes_from_it(base: Path, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    keys = ("run.steps=4", "run.save_every=2", "run.ema=0.9", "run.device=cpu")
    s2s.fit(ready(base, whole, *keys))
    made = ready(base, folder, *keys, "run.checkpoint_format=sharded")
    s2s.fit(made)
    assert len(shard_files.parts(place(folder, 4))) == 1
    shutil.rmtree(place(folder, 4))
    s2s.fit(made)
    assert log(folder) == log(whole)
    ours, theirs = (s2s.load(run, "last").objective.state_dict() for run in (folder, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    with largest_file(10_000), pytest.raises(UserError, match=r"step-00000006: cannot be written \(File too large\)"):
        s2s.fit(recipe(folder, *keys, "run.steps=6", "run.checkpoint_format=sharded"))
    assert checkpoints.step_of(checkpoints.whole(folder)[-1]) == 4


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["run.precision=fp16"], "run.sharding: full not in fp16"),
        (["run.compile=true"], "run.sharding: full not with run.compile"),
        (["mitigations=[{name: fgm_article}]", "run.processes=2"], "'fgm_article': its gradient is that of a whole"),
        (["mitigations=[{name: gradient_penalty}]"], "'gradient_penalty': sharded layers cannot be differentiated"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(keys: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Recipe.load("toy_copy", [*keys, "run.sharding=full"])
    Recipe.load("toy_copy", ["mitigations=[{name: gradient_penalty, first_order: true}]", "run.sharding=full"])
