"""What a run tells others while it trains: the picture of its curves, and trackers by name."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from tiny_runs import arguments, log, ready

import s2s
from s2s import train
from s2s.training import plots, trackers

KEYS = ("run.evaluate_every=3", "run.steps=6", "run.save_every=2")


def test_the_picture_shows_the_log(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    s2s.fit(ready(base, folder, *KEYS))
    picture = (folder / plots.FILE).read_bytes()
    root = xml.etree.ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    texts = {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")}
    assert {"loss", "train", "dev", "dev scores", "rouge_l", "chrf", "rate", "norm of the gradient", "step"} <= texts
    plots.draw(folder)
    assert (folder / plots.FILE).read_bytes() == picture
    (folder / "log.jsonl").write_text(
        json.dumps({"step": 1, "loss": None, "norm": None, "rate": 0.1}) + "\n", encoding="utf-8"
    )
    plots.draw(folder)
    assert (folder / plots.FILE).read_bytes() != picture


def test_long_curves_are_thinned_to_means() -> None:
    records = [{"step": step, "loss": float(step % 2), "norm": None} for step in range(1, 2 * plots.POINTS + 2)]
    steps, values = plots.thinned(records, "loss")
    assert len(steps) == 667
    assert steps[:2] == [2.0, 5.0]
    assert values[:2] == pytest.approx([2 / 3, 1 / 3])
    assert plots.thinned(records, "norm") == ([], [])


def test_a_missing_matplotlib_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    s2s.fit(ready(base, tmp_path / "run", "run.steps=1"))
    missing = "no picture of the curves: matplotlib is not installed (pip install -e '.[plots]')"
    assert missing in capsys.readouterr().out
    assert not (tmp_path / "run" / plots.FILE).exists()


def scalars(folder: Path) -> Iterator[tuple[str, dict[int, float]]]:
    """What TensorBoard shows: for each name the values by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / trackers.FOLDER / trackers.PROJECT))
    events.Reload()
    for name in events.Tags()["scalars"]:
        yield name, {event.step: event.value for event in events.Scalars(name)}


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_hears_every_step_once_and_goes_on(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    s2s.fit(ready(base, folder, *KEYS, "run.trackers=[tensorboard]", "run.steps=3"))
    s2s.fit(tiny_runs.recipe(folder, *KEYS, "run.trackers=[tensorboard]"))
    found = dict(scalars(folder))
    steps = [record for record in log(folder) if "dev" not in record]
    evaluations = {record["step"]: record["dev"] for record in log(folder) if "dev" in record}
    for name in ("loss", "rate", "norm"):
        assert found[f"train/{name}"] == pytest.approx({record["step"]: record[name] for record in steps})
    assert found["dev/loss"] == pytest.approx({step: scores["loss"] for step, scores in evaluations.items()})


def test_unknown_and_missing_trackers_are_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ready(base, tmp_path / "run")
    assert train.main([*arguments(made), "run.trackers=[tensorbord]"]) == 2
    assert capsys.readouterr().err == "error: run.trackers: no 'tensorbord'; did you mean 'tensorboard'?\n"
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    assert train.main([*arguments(made), "run.trackers=[wandb]"]) == 2
    assert capsys.readouterr().err == "error: run.trackers: 'wandb' is not installed (pip install wandb)\n"


IN_A_NOTEBOOK = "module://matplotlib_inline.backend_inline"


@pytest.mark.slow
@pytest.mark.parametrize("backend", [IN_A_NOTEBOOK, "nonsense"])
def test_the_picture_is_drawn_whatever_backend_the_caller_has(base: Path, tmp_path: Path, backend: str) -> None:
    """Notebooks set MPLBACKEND for the commands that they start."""
    pytest.importorskip("matplotlib")
    made = ready(base, tmp_path / "run", *KEYS)
    command = [sys.executable, "-m", "s2s.train", *arguments(made)]
    done = subprocess.run(
        command, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / plots.FILE).exists()


def test_a_picture_that_fails_ends_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> None:
        raise RuntimeError(f"no fonts for {folder.name}")

    monkeypatch.setattr(plots, "available", lambda: True)
    monkeypatch.setattr(plots, "draw", broken)
    assert s2s.fit(ready(base, tmp_path / "run", *KEYS)).step in (3, 6)
    assert "no picture of the curves: RuntimeError: no fonts for run" in capsys.readouterr().out


class Failing(GeneralTracker):
    """A tracker whose service is gone after two records."""

    name, requires_logging_directory, records = "failing", False, 0

    def __init__(self) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, object]) -> None:
        pass

    def log(self, values: dict[str, object], step: int | None = None, **_: object) -> None:  # noqa: ARG002
        self.records += 1
        if self.records > 2:
            raise ConnectionError("no route to host\nand more")

    def finish(self) -> None:
        raise ConnectionError("still none")


def test_a_tracker_that_fails_is_told_once_and_left_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Failing()
    begin = trackers.start

    def with_failing(accelerator: Accelerator, *rest: Any) -> Any:
        on_record = begin(accelerator, *rest)
        accelerator.trackers.append(failing)
        return on_record

    monkeypatch.setattr(trackers, "start", with_failing)
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    s2s.fit(ready(base, folder, *KEYS, "run.trackers=[tensorboard]"))
    printed = capsys.readouterr().out
    assert printed.count("run.trackers: failing failed at step 3 and gets no more: ConnectionError: no route") == 1
    assert failing.records == 3
    assert len(dict(scalars(folder))["train/loss"]) == 6


def test_a_tracker_that_cannot_be_opened_is_left_out(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("no key")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr(Accelerator, "init_trackers", refused)
    s2s.fit(ready(base, tmp_path / "run", *KEYS, "run.trackers=[tensorboard]"))
    assert "the run continues without the rest: PermissionError: no key" in capsys.readouterr().out
