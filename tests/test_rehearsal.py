"""The dry run shows what would be trained, and trains and writes nothing."""

import re
from pathlib import Path

import pytest
import torch

from s2s.train import main

KEYS = ["recipe=toy_copy", "data.size=400", "run.tokens=512", "run.steps=90"]
FEED = "mitigations=[{name: random_replacement, rate: 1.0, gate: 1.0, pool: vocabulary}]"


def rehearsed(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    state = torch.get_rng_state()
    assert main([*KEYS, f"run.folder={folder / 'run'}", *arguments, "--dry-run"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert list(folder.iterdir()) == []
    return capsys.readouterr().out


def test_a_dry_run_shows_the_run_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = rehearsed(tmp_path, capsys, FEED)
    for part in ("examples: train 200", "model.blocks", "memory of a process: about", "an epoch has", "90 steps are"):
        assert part in shown
    assert "s: 90 steps take about" in shown
    assert float(re.search(r"activations of a micro-batch (\d+)", shown)[1]) > 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    rows = [row for row in rows if len(row) == 7]
    sources, targets = ([row for row in rows if row[1] == segment] for segment in "01")
    assert sources[0][2] == "<s>"
    assert targets[0][2] == "</s>"
    ends = [index for index, row in enumerate(targets) if row[5] == "</s>"]
    first = targets[: ends[0] + 1]
    assert [row[2] for row in first[1:]] == [row[5] for row in first[:-1]]  # what is read is what was to be written
    assert [int(row[0]) for row in first] == list(range(int(first[0][0]), int(first[0][0]) + len(first)))
    assert all(row[4] for row in first[1:])  # the feed has replaced every token but the first
    assert not first[0][4]


def test_a_dry_run_of_a_mistake_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*KEYS, "data={source: null, path: /nowhere/at/all}", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: data.path: /nowhere/at/all is missing")
    assert list(tmp_path.iterdir()) == []
