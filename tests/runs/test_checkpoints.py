"""Checkpoints are complete or absent, whatever is cut, flipped, left behind or killed; so are logs and locks."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2s.errors import UserError
from s2s.files.atomic import write_atomically
from s2s.files.folders import MANIFEST, recorded_hash
from s2s.model import Architecture
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import TRAINER, WEIGHTS, Best, Checkpoint, newest, save, stored
from s2s.runs.log import LOG, cut_log, read_log
from s2s.runs.metadata import RunMetadata, read_metadata, write_metadata
from s2s.runs.run_folder import create, exists, locked, read, read_vocabulary
from s2s.vocabulary.sentence_pieces import train

VOCABULARY = train((f"{a} {b}" for a in "abcdefghij" for b in "klmnopqrst"), 300)
FILES = (WEIGHTS, TRAINER, MANIFEST)


def checkpoint(step: int, best: int | None = None) -> Checkpoint:
    """Random weights after a real update, another one for each step."""
    torch.manual_seed(step)
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return Checkpoint(step, module.state_dict(), optimizer.state_dict(), best and Best(best, 1 / 3))


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.best) == (expected.step, expected.best)
    torch.testing.assert_close(found.weights, dict(expected.weights), rtol=0, atol=0)
    torch.testing.assert_close(found.optimizer["state"], expected.optimizer["state"], rtol=0, atol=0)
    assert found.optimizer["param_groups"] == expected.optimizer["param_groups"]


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 10, 20 and 30; the first is the best."""
    run = tmp_path_factory.mktemp("three")
    for step in (10, 20, 30):
        save(run, checkpoint(step, best=10))
    return run


@pytest.fixture
def run(three: Path, tmp_path: Path) -> Path:
    return shutil.copytree(three, tmp_path / "run")


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


@pytest.mark.parametrize("best", [None, 10])
def test_what_is_saved_comes_back_bit_for_bit(best: int | None, tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    save(tmp_path, checkpoint(10, best))
    found, passed = newest(tmp_path)
    assert_same(found, checkpoint(10, best))
    assert passed == []


def assert_passed_over(run: Path) -> None:
    found, passed = newest(run)
    assert_same(found, checkpoint(20, best=10))
    assert len(passed) == 1
    assert passed[0].startswith(f"{folder_of(run, 30)}: damaged (")
    assert "\n" not in passed[0]
    with pytest.raises(UserError, match="damaged"):
        stored(run, "last")


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(FILES),
    share=st.floats(0, 1, exclude_max=True),
    damage=st.sampled_from(["cut", "flip", "lose"]),
)
def test_a_changed_byte_is_noticed(three: Path, name: str, share: float, damage: str) -> None:
    path = folder_of(three, 30) / name
    whole = path.read_bytes()
    position = int(share * len(whole))
    flipped = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
    path.write_bytes(whole[:position] if damage == "cut" else flipped)
    if damage == "lose":
        path.unlink()
    assert_passed_over(three)
    path.write_bytes(whole)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weights.safetensors": 1}'])
def test_a_manifest_that_lists_nothing_vouches_for_nothing(run: Path, text: str) -> None:
    (folder_of(run, 30) / MANIFEST).write_text(text, encoding="utf-8")
    assert_passed_over(run)


def test_a_half_written_checkpoint_is_none(run: Path) -> None:
    folder_of(run, 30).rename(folder_of(run, 30).with_suffix(".partial"))
    found, passed = newest(run)
    assert_same(found, checkpoint(20, best=10))
    assert passed == []
    save(run, checkpoint(30, best=10))
    assert_same(newest(run)[0], checkpoint(30, best=10))
    assert folders(run) == ["step-00000010", "step-00000020", "step-00000030"]


def test_small_files_name_the_best_and_the_last(run: Path, tmp_path: Path) -> None:
    names = {name: (run / "checkpoints" / name).read_bytes() for name in ("best", "last")}
    assert names == {"best": b"step-00000010\n", "last": b"step-00000030\n"}
    assert [stored(run, link).step for link in (None, "best", "last")] == [10, 10, 30]
    assert torch.equal(stored(run, "last").tensors["weight"], checkpoint(30).weights["weight"])
    save(tmp_path / "new", checkpoint(10))
    assert stored(tmp_path / "new").step == 10
    with pytest.raises(UserError, match="no best checkpoint"):
        stored(tmp_path / "new", "best")


def test_the_last_two_and_the_best_stay(tmp_path: Path) -> None:
    kept = []
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5), (8, 5)):
        save(tmp_path, checkpoint(step, best))
        kept.append([int(name[-2:]) for name in folders(tmp_path)])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6], [5, 6, 7], [5, 7, 8]]


def test_saving_goes_on_before_and_over_damaged_ones(tmp_path: Path) -> None:
    for step in (20, 30):
        save(tmp_path, checkpoint(step))
        (folder_of(tmp_path, step) / WEIGHTS).write_bytes(b"")
    found, passed = newest(tmp_path)
    assert (found, len(passed)) == (None, 2)
    for step in (10, 20, 30):
        save(tmp_path, checkpoint(step))
        assert_same(newest(tmp_path)[0], checkpoint(step))
        assert stored(tmp_path).step == step


STEPS = "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(1, 6))


@pytest.mark.parametrize(
    "rest", ["", '{"step": 4', '{"step": 4, "loss": 0.', "\n", '{"loss": 1}\n', "[4]\n", "\x00\x00"]
)
def test_a_log_is_cut_behind_its_step(tmp_path: Path, rest: str) -> None:
    log = tmp_path / "log.jsonl"
    cut_log(tmp_path, 3)
    assert not log.exists()
    log.write_text(STEPS + rest, encoding="utf-8")
    for step in (9, 3, 0):
        cut_log(tmp_path, step)
        assert [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()] == list(
            range(1, min(5, step) + 1)
        )


def test_writing_replaces_the_whole_text(tmp_path: Path) -> None:
    for text in ("long é text\n" * 99, "short", ""):
        write_atomically(tmp_path / "note.txt", text)
        assert (tmp_path / "note.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A process that has done what this file does when it is run: its folder holds killed runs, and it is locked."""
    if not hasattr(os, "fork"):
        pytest.skip("a process is forked and killed")
    folder = tmp_path_factory.mktemp("other")
    command, environment = [sys.executable, __file__, str(folder)], os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield folder, process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_save_killed_at_any_file_operation_leaves_a_whole_checkpoint(
    other: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    runs = sorted(other[0].glob("save-*"))
    assert len(runs) > 20
    steps = []
    for run in runs:
        found, passed = newest(run)
        assert passed == []
        assert found is not None
        assert_same(found, checkpoint(found.step, best={20: 10, 30: 30}[found.step]))
        steps.append((found.step, stored(run, "last").step, stored(run, "best").step))
        save(run, checkpoint(30, best=30))
        assert folders(run) == ["step-00000020", "step-00000030"]
    assert steps == sorted(steps)
    assert list(dict.fromkeys(steps)) == [(20, 20, 10), (30, 20, 10), (30, 30, 10), (30, 30, 30)]


@pytest.mark.slow
def test_a_save_over_copies_of_links_can_be_killed_at_any_file_operation(
    other: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    runs = sorted(other[0].glob("copies-*"))
    assert len(runs) > 30
    for run in runs:
        found, passed = newest(run)
        assert found is not None
        assert_same(found, checkpoint(found.step, best={20: 10, 30: 30}[found.step]))
        assert passed == []
        assert [stored(run, name).step in (10, 20, 30) for name in (None, "best", "last")] == [True] * 3
        save(run, checkpoint(30, best=30))
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
            *("best", "last", "step-00000020", "step-00000030"),
        ]


@pytest.mark.slow
def test_a_runs_folder_is_whole_or_not_there_when_its_writer_is_killed(
    other: tuple[Path, "subprocess.Popen[str]"],
) -> None:
    created, rewritten = (sorted(other[0].glob(f"{name}-*")) for name in ("create", "rewrite"))
    assert min(len(created), len(rewritten)) > 5
    for run in (*created, *rewritten):
        if run in rewritten or exists(run):
            assert read(run)[0].run.steps in (1, 2)
            assert read_vocabulary(run, read_metadata(run)).size == VOCABULARY.size
        write_run(run, steps=2)
        assert read(run)[0].run.steps == 2
        assert read_vocabulary(run, read_metadata(run)).size == VOCABULARY.size


@pytest.mark.slow
def test_a_lock_keeps_others_out_until_its_holder_is_killed(other: tuple[Path, "subprocess.Popen[str]"]) -> None:
    folder, holder = other
    said: list[str] = []
    inside = threading.Event()

    def enter() -> None:
        with locked(folder, said.append):
            inside.set()

    waiter = threading.Thread(target=enter, daemon=True)
    waiter.start()
    assert not inside.wait(0.3)
    assert said == [f"{folder}: another process is training here; waiting until it ends"]
    holder.kill()
    assert inside.wait(10)
    waiter.join()


def write_run(run: Path, steps: int) -> None:
    """Write a new run's folder, or what resuming writes again."""
    recipe = Recipe.load("toy_copy", [f"run.steps={steps}", f"run.folder={run}"])
    metadata = RunMetadata(Architecture(VOCABULARY.size, 1, 8, 2), "data", "default", 1, "fp32", {}, [])
    if exists(run):
        write_atomically(run / "recipe.yaml", recipe.to_yaml())
        write_metadata(run, read_metadata(run))
    else:
        run.mkdir(parents=True, exist_ok=True)
        create(run, recipe, VOCABULARY, metadata)


def saved(run: Path) -> Callable[[], None]:
    for step in (10, 20):
        save(run, checkpoint(step, best=10))
    return partial(save, run, checkpoint(30, best=30))


def copied(run: Path) -> Callable[[], None]:
    """What ``cp -rL`` makes of links; that of ``last`` is all there is of its checkpoint."""
    act = saved(run)
    for name, step in (("best", 10), ("last", 20)):
        (run / "checkpoints" / name).unlink()
        shutil.copytree(folder_of(run, step), run / "checkpoints" / name)
    shutil.rmtree(folder_of(run, 20))
    return act


def rewritten(run: Path) -> Callable[[], None]:
    write_run(run, steps=1)
    return partial(write_run, run, steps=2)


SCENARIOS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "save": saved,
    "copies": copied,
    "create": lambda run: partial(write_run, run, steps=1),
    "rewrite": rewritten,
}
"""Each prepares a run and returns what is killed; tensors are made before, as gradients after a fork need all GPUs."""


def do_and_kill(run: Path, scenario: str, left: int) -> bool:
    """Do it in a child that is killed at its file operation number ``left``; whether it came so far."""
    act = SCENARIOS[scenario](run)
    changes = ("open", "shutil.rmtree", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink")

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in changes and str(run) in str(arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    if not (child := os.fork()):
        sys.addaudithook(count)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for scenario in SCENARIOS:
        for number in itertools.count(1):
            if not do_and_kill(place / f"{scenario}-{number:03d}", scenario, number):
                break
    with locked(place, print):
        print("locked", flush=True)
        time.sleep(600)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5", "null", '{"../x": 1}', '{"trainer.pt": 5}'])
def test_a_manifest_of_something_else_is_damage(run: Path, text: str) -> None:
    (run / "checkpoints" / "step-00000030" / MANIFEST).write_text(text, encoding="utf-8")
    found, lines = newest(run)
    assert found is not None
    assert found.step == 20
    assert MANIFEST in lines[0]
    with pytest.raises(UserError, match="damaged"):
        recorded_hash(run / "checkpoints" / "step-00000030" / WEIGHTS)


def test_the_log_is_read_without_its_damaged_lines(tmp_path):
    assert read_log(tmp_path) == []
    lines = ['{"step": 1, "loss": 2.0}', "cut {", "[1]", '{"dev": {}}', '{"step": 2, "dev": {"loss": 1.0}}', '{"ste']
    (tmp_path / LOG).write_text("\n".join(lines), encoding="utf-8")
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2, "dev": {"loss": 1.0}}]
