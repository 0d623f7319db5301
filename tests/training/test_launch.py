"""What the environment asks for: taken, refused or not used, each in a line, and never without a word."""

import os
import socket
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
import tiny_runs
import torch
from tiny_runs import log, ready
from torch.distributed import TCPStore

import s2s
from s2s import train
from s2s.errors import UserError
from s2s.machine.precision import choose_precision
from s2s.recipe.recipe import Recipe
from s2s.recipe.run_settings import RunSettings
from s2s.training import launch
from s2s.training.launch import KEYS, PREFIXES, hidden_from_accelerate, join, read_launch, settle
from s2s.training.setup import is_sharded

GROUP = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
LAUNCHERS = {  # what accelerate launch sets without a flag
    **{"ACCELERATE_USE_CPU": "False", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"},
    **{"ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False"},
    **{"ACCELERATE_DYNAMO_USE_DYNAMIC": "False", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False"},
}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what this process was started with."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name == "CUDA_VISIBLE_DEVICES":
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: no launcher has started this process .RANK, LOCAL_RANK, MASTER_ADDR"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE=2: no launcher"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4: no launcher"),
        ({"MV2_COMM_WORLD_SIZE": "2"}, "MV2_COMM_WORLD_SIZE=2: no launcher"),
        (OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_RANK=0: no launcher .* .MASTER_ADDR, MASTER_PORT not set"),
        ({"RANK": "1"}, "RANK=1: no launcher"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3: no launcher"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR, MASTER_PORT not set"),
        ({**GROUP, "RANK": "2"}, "RANK=2: with WORLD_SIZE=2"),
        ({**GROUP, "RANK": "0"}, "RANK=0: with WORLD_SIZE=2 and LOCAL_RANK=1 it cannot be"),
        ({**GROUP, "MASTER_PORT": "abc"}, "MASTER_PORT=abc is not a whole number"),
        ({**GROUP, "MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port up to 65535"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a whole number"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED was asked for"),
        ({"ACCELERATE_USE_FSDP": "1"}, "FSDP of version 1 was asked for .*: add --fsdp_version 2"),
        (
            {"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "FSDP was asked to keep parameters in main memory",
        ),
        ({"ACCELERATE_USE_MEGATRON_LM": "True"}, "MEGATRON_LM was asked for"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "PARALLELISM_CONFIG was asked for"),
        ({"ACCELERATE_USE_TP": "yes"}, "TP was asked for"),
        ({"ACCELERATE_USE_SAGEMAKER": "true"}, "SAGEMAKER was asked for"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU=maybe is neither true nor false"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "run.precision has no 'fp8'"),
        ({"ACCELERATE_MIXED_PRECISION": "half"}, "run.precision has no 'half'"),
        ({"ACCELERATE_DYNAMO_BACKEND": "cudagraphs"}, "run.compile has no 'cudagraphs'"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUKTOR"}, "run.compile has no 'induktor'; did you mean 'inductor'"),
    ],
)
def test_what_would_train_otherwise_is_refused(
    environment: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=told):
        read_launch(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for more in ([], ["--dry-run"]):
        assert train.main(["recipe=toy_copy", f"run.folder={tmp_path / 'run'}", *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        LAUNCHERS,
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"LOCAL_RANK": "-1"},
        {"LOCAL_RANK": "0"},
        {"PMI_SIZE": "1", "OMPI_COMM_WORLD_SIZE": ""},
        {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_CPU": ""},
        {"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO"},
    ],
)
def test_a_process_alone_is_told_nothing(environment: dict[str, str]) -> None:
    launch = read_launch(environment)
    assert (launch.processes, launch.process, launch.group, launch.precision, launch.compile) == (
        1,
        0,
        None,
        None,
        None,
    )
    assert settle(RunSettings(), launch, environment) == (replace(RunSettings(), compile=False), [])


def test_a_launchers_processes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launch = read_launch(GROUP | {"PMI_SIZE": "7"})
    assert (launch.processes, launch.process, launch.group) == (2, 1, GROUP)
    by_mpi = read_launch(OPEN_MPI | {"MASTER_ADDR": "one", "MASTER_PORT": "5"})
    assert by_mpi.group == {**GROUP, "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "one", "MASTER_PORT": "5"}


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    told = "2 processes on this machine, but 1 GPU: start at most 1 here"
    for environment in (GROUP, GROUP | {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}):
        with pytest.raises(UserError, match=told):
            read_launch(environment)
    assert read_launch(GROUP | {"ACCELERATE_USE_CPU": "1"}).device == "cpu"
    elsewhere = {"RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert read_launch(GROUP | elsewhere).device == "cuda"


@pytest.mark.parametrize(
    ("environment", "settings", "lines"),
    [
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            {},
            ["run.accumulate: 1 holds; ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is not used"],
        ),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulate": 4}, []),
        (
            {"ACCELERATE_GRADIENT_CLIPPING": "0.5"},
            {},
            ["run.clip: 1.0 holds; ACCELERATE_GRADIENT_CLIPPING=0.5 is not used"],
        ),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
            {},
            ["run.compile: true, as the launcher asks (ACCELERATE_DYNAMO_BACKEND=inductor)"],
        ),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "inductor"},
            {"compile": False},
            ["run.compile: false holds; ACCELERATE_DYNAMO_BACKEND=inductor is not used"],
        ),
        ({"ACCELERATE_DYNAMO_BACKEND": "inductor"}, {"compile": True}, []),
        (
            {"FSDP_VERSION": "2", "MEGATRON_LM_TP_DEGREE": "2", "ACCELERATE_TORCH_DEVICE": "cuda:1"},
            {},
            ["not used: ACCELERATE_TORCH_DEVICE=cuda:1, FSDP_VERSION=2, MEGATRON_LM_TP_DEGREE=2"],
        ),
        (
            {"PARALLELISM_CONFIG_TP_SIZE": "2", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "FP8_FORMAT": "E4M3"},
            {},
            ["not used: ACCELERATE_DEEPSPEED_ZERO_STAGE=3, FP8_FORMAT=E4M3, PARALLELISM_CONFIG_TP_SIZE=2"],
        ),
        ({"ACCELERATE_DYNAMO_MODE": "max-autotune"}, {}, ["not used: ACCELERATE_DYNAMO_MODE=max-autotune"]),
    ],
)
def test_the_recipe_holds_and_the_rest_is_told(
    environment: dict[str, str], settings: dict[str, object], lines: list[str]
) -> None:
    run, found = settle(RunSettings(**settings), read_launch(environment), environment)
    assert found == lines
    compiled = settings.get("compile", "ACCELERATE_DYNAMO_BACKEND" in environment)
    assert run == replace(RunSettings(**settings), compile=compiled)


FSDP = {  # what accelerate launch --use_fsdp --fsdp_version 2 sets
    **{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "FULL_SHARD"},
    **{"FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false", "FSDP_MIN_NUM_PARAMS": "100000000"},
    **{"FSDP_FORWARD_PREFETCH": "false", "FSDP_USE_ORIG_PARAMS": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
    **{"FSDP_SYNC_MODULE_STATES": "true", "FSDP_ACTIVATION_CHECKPOINTING": "false"},
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "false",
}


@pytest.mark.parametrize(
    ("setting", "processes", "sharded"), [(None, 2, True), ("none", 2, False), ("full", 2, True), (None, 1, False)]
)
def test_fsdp_of_the_launcher_is_full_sharding(setting: str | None, processes: int, sharded: bool) -> None:
    launch, run = read_launch(LAUNCHERS | FSDP)._replace(processes=processes), RunSettings(sharding=setting)
    ignored = ["run.sharding: none holds; ACCELERATE_USE_FSDP=true is not used"] if setting == "none" else []
    assert settle(run, launch, LAUNCHERS | FSDP) == (replace(run, compile=False), ignored)
    assert is_sharded(replace(Recipe.load("toy_copy"), run=run), launch) is sharded


def test_hidden_gpus_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hidden = read_launch({"CUDA_VISIBLE_DEVICES": ""})
    assert (hidden.device, hidden.notes) == ("cpu", ("on the processor: CUDA_VISIBLE_DEVICES='' shows no GPU",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = read_launch({"ACCELERATE_USE_CPU": "true"})
    assert (asked.device, asked.notes) == ("cpu", ("on the processor, as the launcher asks (ACCELERATE_USE_CPU)",))


def test_a_precision_that_is_left_open_is_the_launchers() -> None:
    taken = choose_precision("auto", "cpu", "bf16")
    assert taken == ("bf16", "precision: bf16, as the launcher asks, for run.precision auto")
    held = choose_precision("fp32", "cpu", "bf16")
    assert held.name == "fp32"
    assert held.reason == "precision: fp32, as run.precision says; ACCELERATE_MIXED_PRECISION=bf16 is not used"


def test_nothing_of_the_environment_reaches_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FSDP_VERSION", "ACCELERATE_TORCH_DEVICE", *KEYS):
        monkeypatch.setenv(name, "9")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("ACCELERATE_DEBUG_MODE", "true")
    before = dict(os.environ)
    with hidden_from_accelerate(read_launch()):
        assert [name for name in os.environ if name.startswith(PREFIXES)] == ["ACCELERATE_DEBUG_MODE"]
        assert "LOCAL_RANK" not in os.environ
    assert dict(os.environ) == before
    with pytest.raises(UserError, match=r"^accelerate: no such thing$"), hidden_from_accelerate(read_launch()):
        raise ValueError("no such thing\nand more of it")


def test_a_launchers_accumulation_changes_no_gradient(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, asked = tmp_path / "plain", tmp_path / "asked"
    s2s.fit(ready(base, plain, "run.steps=3"))
    capsys.readouterr()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "perhaps")
    s2s.fit(ready(base, asked, "run.steps=3"))
    assert log(asked) == log(plain)
    told = capsys.readouterr().out
    assert "run.accumulate: 1 holds; ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is not used" in told
    assert "not used: ACCELERATE_DYNAMO_USE_FULLGRAPH=perhaps" in told


def test_a_launchers_precision_is_trained_in_and_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    s2s.fit(ready(base, folder, "run.steps=2", "run.precision=auto"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    before = s2s.runs.metadata.read_metadata(folder).precision
    capsys.readouterr()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    s2s.fit(tiny_runs.recipe(folder, "run.steps=4", "run.precision=auto"))
    told = capsys.readouterr().out
    assert "precision: bf16, as the launcher asks" in told
    assert f"resuming with changes (precision {before} -> bf16" in told or before == "bf16"
    assert s2s.runs.metadata.read_metadata(folder).precision == "bf16"
    s2s.fit(tiny_runs.recipe(folder, "run.steps=6", "run.precision=fp32"))
    told = capsys.readouterr().out
    assert "ACCELERATE_MIXED_PRECISION=bf16 is not used" in told
    assert "precision bf16 -> fp32" in told


@pytest.mark.parametrize("is_met", [False, True])
def test_a_process_says_for_whom_it_waits_and_not_for_ever(
    is_met: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another process that takes part in torch's meeting, and is gone then, is not waited for either."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = GROUP | {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "BY_HAND", timedelta(seconds=3))
    monkeypatch.setattr(launch, "SILENT", timedelta(seconds=0.5))
    if is_met:
        Thread(target=TCPStore, args=("127.0.0.1", port, 2, False), daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(
        UserError, match=f"WORLD_SIZE=2: the processes did not meet at 127.0.0.1:{port} .*; unset WORLD"
    ):
        join(read_launch(asked="cpu"))
    assert time.monotonic() - begun < 30
    told = capsys.readouterr().err
    assert told.startswith(f"process 0 waits at 127.0.0.1:{port} for the others of WORLD_SIZE=2, RANK 1, for ")
    assert "unset WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, or start all with" in told
