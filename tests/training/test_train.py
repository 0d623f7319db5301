"""Training: what a run leaves behind, when it goes on, and that being killed changes no bit of it."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import s2s
from s2s.errors import UserError
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import TRAINER, WEIGHTS

pytestmark = pytest.mark.slow

STEPS, SAVE_EVERY = 60, 10
TINY = [
    *("data.size=400", "model.width=16", "model.layers=1", "model.dropout=0.1", f"run.save_every={SAVE_EVERY}"),
    *("run.evaluate_every=25", "run.evaluate_examples=4", "run.accumulate=2", "run.precision=fp32"),
]


def recipe(folder: Path, *overrides: str) -> Recipe:
    return Recipe.load("toy_copy", [*TINY, f"run.steps={STEPS}", f"run.folder={folder}", *overrides])


def snapshot(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in log(folder) if "dev" not in record]


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("finished")
    s2s.fit(recipe(folder))
    return folder


def test_training_learns_and_logs_a_line_a_step(finished: Path) -> None:
    assert steps(finished) == list(range(1, STEPS + 1))
    records = [record for record in log(finished) if "dev" not in record]
    assert records[-1]["nll"] < 0.9 * records[0]["nll"]
    assert {record["step"] for record in log(finished) if "dev" in record} == {25, 50, STEPS}
    assert all(
        {"epoch", "norm", "rate", "seconds", "target_tokens", "source_tokens"} <= record.keys() for record in records
    )


def test_a_run_can_be_loaded_and_generates(finished: Path) -> None:
    named = {name: (finished / "checkpoints" / name).read_text(encoding="utf-8") for name in ("best", "last")}
    assert named["last"] == f"step-{STEPS:08d}\n"
    for name, folder in named.items():
        run = s2s.load(finished, name)
        assert run.step == int(folder[5:])
        generated = run.generate(["a b c", "d"], beams=2)
        assert [len(hypotheses) for hypotheses in generated] == [1, 1]
        assert all(isinstance(hypotheses[0], s2s.Hypothesis) for hypotheses in generated)
    assert s2s.load(finished).step == int(named["best"][5:])


def test_a_finished_run_is_left_as_it_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(finished)
    run = s2s.fit(recipe(finished))
    assert f"finished at step {STEPS}" in capsys.readouterr().out
    assert run.step == s2s.load(finished).step
    assert snapshot(finished) == before


def test_another_recipe_is_refused(finished: Path) -> None:
    before = snapshot(finished)
    with pytest.raises(UserError, match="another recipe") as caught:
        s2s.fit(recipe(finished, "model.layers=2", "optimizer.rate=0.1", f"run.steps={STEPS + 1}"))
    assert "(model.layers: 1 -> 2; optimizer.rate: 0.003 -> 0.1);" in str(caught.value)
    with pytest.raises(UserError, match=f"run.steps: {STEPS} -> {STEPS - 1}"):
        s2s.fit(recipe(finished, f"run.steps={STEPS - 1}"))
    assert snapshot(finished) == before


def test_other_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^run.processes: 2, but 1 came up; .*torchrun --nproc-per-node 2"):
        s2s.fit(recipe(tmp_path, "run.processes=2"))


def test_raised_steps_go_on(tmp_path: Path) -> None:
    s2s.fit(recipe(tmp_path, "run.steps=7"))
    s2s.fit(recipe(tmp_path, "run.steps=12"))
    assert steps(tmp_path) == list(range(1, 13))
    assert s2s.load(tmp_path, "last").step == 12
    assert Recipe.load(tmp_path / "recipe.yaml").run.steps == 12


def test_training_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    s2s.fit(recipe(tmp_path, "run.steps=2"))
    assert torch.equal(torch.rand(3), expected)


def test_data_without_dev_examples_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"source": "a b", "target": "a"}\n', encoding="utf-8")
    overrides = ["data.source=null", f"data.path={tmp_path / 'train.jsonl'}", "run.steps=2"]
    with pytest.raises(UserError, match="dev"):
        s2s.fit(recipe(tmp_path / "run", *overrides))
    assert not (tmp_path / "run" / "log.jsonl").exists()


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """Train in a process of its own."""
    arguments = ["recipe=toy_copy", *TINY, f"run.steps={STEPS}", f"run.folder={folder}"]
    command, environment = [sys.executable, "-m", "s2s.train", *arguments], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def kill_at(folder: Path, step: int) -> int:
    """Train until the log has reached a step; then SIGKILL. Step 0 is when the folder comes into being."""
    with start(folder) as process:
        while reached(folder) < step and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return step


def reached(folder: Path) -> int:
    if not (folder / "log.jsonl").exists():
        return 0 if (folder / ".lock").exists() else -1
    lines = (folder / "log.jsonl").read_bytes().split(b"\n")
    return max((json.loads(line)["step"] for line in lines[:-1]), default=0)


def finish(folder: Path) -> Path:
    with start(folder) as process:
        assert process.wait() == 0
    return folder


def digests(folder: Path) -> dict[str, str]:
    """The hash of each tensor of each checkpoint, those of the optimizer too."""
    found = {}
    for place in folder.glob("checkpoints/step-*"):
        state = torch.load(place / TRAINER, map_location="cpu")["optimizer"]["state"]
        moments = {f"{index} {name}": tensor for index, row in state.items() for name, tensor in row.items()}
        for name, tensor in (load_file(place / WEIGHTS) | moments).items():
            found[f"{place.name} {name}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return found


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in log(folder)]


def assert_same_run(folder: Path, undisturbed: Path, moments: list[int]) -> None:
    told = f"killed at the steps {moments}"
    assert digests(folder) == digests(undisturbed), told
    assert steps(folder) == list(range(1, STEPS + 1)), told
    assert timeless(folder) == timeless(undisturbed), told
    assert snapshot(folder / "vocabulary") == snapshot(undisturbed / "vocabulary"), told


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, finished: Path) -> None:
    first, second = random.randrange(1, SAVE_EVERY), random.randrange(SAVE_EVERY, STEPS - 20)
    moments = [kill_at(tmp_path, moment) for moment in (0, first)]
    take_kernel(tmp_path, finished)
    moments.append(kill_at(tmp_path, second))
    assert_same_run(finish(tmp_path), finished, moments)


def take_kernel(folder: Path, other: Path) -> None:
    """Compute products as the other run does: the choice is a measurement, which a busy machine may upset."""
    metadata, others = (json.loads((place / "run.json").read_text(encoding="utf-8")) for place in (folder, other))
    ways = {name: others[name] for name in ("kernel", "paths")}
    if {name: metadata[name] for name in ways} != ways:
        (folder / "run.json").write_text(json.dumps(metadata | ways), encoding="utf-8")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def test_a_killed_run_with_damaged_checkpoints_ends_with_the_same_bits(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoints", "log.jsonl"))
    moments = []
    for name, least, most in ((WEIGHTS, 2 * SAVE_EVERY + 2, 31), (TRAINER, 32, STEPS - 20)):
        moments.append(kill_at(folder, random.randrange(least, most)))
        newest = max(folder.glob(f"checkpoints/step-*[0-9]/{name}"))
        newest.write_bytes(newest.read_bytes()[:-9])
    assert_same_run(finish(folder), finished, moments)
