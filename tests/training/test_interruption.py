"""What ends a run early: signals, patience, a full disk, losses that are not finite; and that it goes on as if not."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import tiny_runs
import torch
from tiny_runs import arguments, assert_same_end, largest_file, log, ready, steps

import s2s
from s2s import train
from s2s.data.batches import UpdateBatch
from s2s.errors import UserError
from s2s.machine.precision import Precision
from s2s.recipe.build import build_objective
from s2s.runs import checkpoints
from s2s.training.reporter import Reporter
from s2s.training.setup import check_processes, prepare
from s2s.training.state import State
from s2s.training.step import not_finite

pytestmark = pytest.mark.slow

STEPS = 12
EMA = ("run.ema=0.9", "run.save_every=5", "run.evaluate_every=4", "run.patience=9", f"run.steps={STEPS}")


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    s2s.fit(ready(base, folder, *EMA))
    return folder


@contextmanager
def sent(number: int, folder: Path, step: int) -> Iterator[None]:
    """Send this process a signal when the run's log has reached a step."""

    def watch() -> None:
        while not (folder / "log.jsonl").exists() or len((folder / "log.jsonl").read_bytes().splitlines()) < step:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join()


def test_signals_save_and_exit_and_the_run_ends_with_the_same_bits(
    base: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    command = arguments(ready(base, folder, *EMA))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with sent(signal.SIGTERM, folder, 2), pytest.raises(SystemExit) as ended:
        train.main(command)
    assert ended.value.code == 143
    stopped = checkpoints.stored(folder, "last").step
    assert f"stopped after step {stopped}; the same command resumes from there" in capsys.readouterr().out
    assert steps(folder) == list(range(1, stopped + 1))
    assert stopped < STEPS
    with sent(signal.SIGINT, folder, len(log(folder)) + 1):
        assert train.main(command) == 130
    assert stopped < checkpoints.stored(folder, "last").step
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert train.main(command) == 0
    assert_same_end(folder, undisturbed, STEPS)


def test_a_run_without_progress_ends_early_and_goes_on_with_more_patience(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    keys = ["optimizer.rate=0", "run.evaluate_every=2", "run.patience=2", "run.select=loss"]
    made = ready(base, folder, *keys)
    s2s.fit(made)
    assert steps(folder) == list(range(1, 7))
    ending = "finished at step 6 early, after 2 evaluations without a better one (run.patience); best loss"
    assert ending in capsys.readouterr().out
    s2s.fit(made)
    assert ending in capsys.readouterr().out
    s2s.fit(tiny_runs.recipe(folder, *keys, "run.patience=3"))
    assert steps(folder) == list(range(1, 9))
    with pytest.raises(UserError, match=r"run.patience: 3 -> 2"):
        s2s.fit(made)


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    base: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    made = ready(base, folder, *EMA)
    with sent(signal.SIGTERM, folder, 2), pytest.raises(SystemExit):
        s2s.fit(made)
    last = checkpoints.stored(folder, "last").step
    with largest_file(10_000):
        assert train.main(arguments(made)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {folder}/checkpoints/step-0000000")
    assert told.endswith("cannot be written (File too large); the checkpoint before it is whole")
    assert checkpoints.newest(folder)[0].step == last
    assert not list(folder.rglob("*.partial"))
    assert train.main(arguments(made)) == 0
    assert_same_end(folder, undisturbed, STEPS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a device that is full")
def test_a_log_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    with Reporter(Path("/dev/full"), 0, 5) as reporter:
        reporter.record({"step": 1})
        reporter.record({"step": 2})
    assert reporter.failure == "/dev/full: cannot be written (No space left on device); the last checkpoint is whole"
    with Reporter(tmp_path / "log.jsonl", 0, 5) as reporter:
        reporter.failure = "it is full"
        with pytest.raises(UserError, match="it is full"):
            train._agreed_signal(check_processes(tiny_runs.recipe(tmp_path)), train.Signals(), reporter.failure)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        assert train.main(["recipe=toy_copy", f"run.folder={folder}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(folder) in error
        assert error.count("\n") == 1


def test_a_loss_that_is_not_finite_ends_the_run_with_its_weights_intact(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    made = ready(base, folder, "optimizer={rate: 1e9, decay: 1e9}", "run.save_every=1")
    assert train.main(arguments(made)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    last = checkpoints.newest(folder)[0]
    assert all(tensor.isfinite().all() for tensor in last.weights.values())
    assert told.startswith(f"error: step {last.step + 1}: loss nan, norm of the gradient nan; its batch, in epoch ")
    assert f"the weights are those of step {last.step}, and the last checkpoint is whole" in told


def test_the_examples_that_are_not_finite_are_named(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = ready(base, folder)
    prepared = prepare(made, check_processes(made), folder)
    objective = build_objective(made, prepared.vocabulary)[0].to(prepared.accelerator.device)
    lengths = prepared.train.lengths().sum(axis=1)
    beyond = int(numpy.sort(lengths)[-3])
    with torch.no_grad():
        objective.model.embedding.positions.weight[beyond - 1 :] = torch.nan
    state = State(made.run, objective, made.optimizer.build(objective), Precision(), None)
    told = not_finite(prepared, state, UpdateBatch(0, numpy.arange(len(lengths))), "loss nan")
    bad = [str(index) for index, length in enumerate(lengths) if length >= beyond]
    assert f"not finite by themselves: {', '.join(bad)}; the weights" in told
    with pytest.raises(UserError, match=r"step 0: 'model.embedding.positions.weight' is not finite any more"):
        state.check()


def test_other_means_are_told_and_change_no_example(
    base: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    made = ready(base, folder, *EMA)
    with sent(signal.SIGTERM, folder, 2), pytest.raises(SystemExit):
        s2s.fit(made)
    assert checkpoints.newest(folder)[0].step < 10
    torch.set_num_threads(2)
    try:
        s2s.fit(tiny_runs.recipe(folder, *EMA, "run.accumulate=2"))
    finally:
        torch.set_num_threads(1)
    line = "resuming with changes (threads 1 -> 2, accumulate 1 -> 2): the examples stay, bits may differ"
    assert line in capsys.readouterr().out
    for ours, theirs in zip(log(folder), log(undisturbed), strict=True):
        assert [ours.get(key) for key in ("step", "examples")] == [theirs.get(key) for key in ("step", "examples")]
    with pytest.raises(UserError, match="another recipe"):
        s2s.fit(tiny_runs.recipe(folder, *EMA, "run.tokens=600"))
    assert "resuming" not in capsys.readouterr().out
