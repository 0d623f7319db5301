"""The comparison of attention variants, run as its users run it, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "compare_attention.py"
SMALL = ("model.width=16", "data.size=230", "run.tokens=256", "run.evaluate_examples=2")


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--recipe", "toy_copy", "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_every_variant_has_a_row_with_what_it_learnt_and_cost(tmp_path: Path) -> None:
    options = (
        "--steps",
        "2",
        "--sources",
        "3",
        "--variants",
        "dot",
        "dense,random",
        "--json",
        str(tmp_path / "rows.json"),
    )
    done = compare(tmp_path / "runs", *options, *SMALL)
    assert done.returncode == 0, done.stderr
    dot, mixed = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert (dot["name"], mixed["name"], dot["steps"], dot["sources"]) == ("dot", "dense,random", 2, 3)
    for row in (dot, mixed):
        assert f"{row['parameters']:,}" in done.stdout
        assert row["loss"] > 0
        assert 0 <= row["rouge_l"] <= 100
        assert min(row["step_seconds"], row["decode_seconds"]) > 0
    # Of 16 x 16 matrices with biases: four a layer; then three and W2, and two and a table of 32 x 32 slots, 4 heads.
    assert dot["attention_parameters"] == 2 * 4 * (16 * 16 + 16)
    assert mixed["attention_parameters"] == 5 * (16 * 16 + 16) + (16 + 4) * 32 + 4 * 32 * 32
    assert mixed["parameters"] - dot["parameters"] == mixed["attention_parameters"] - dot["attention_parameters"]


def test_an_unknown_variant_is_refused_in_one_line(tmp_path: Path) -> None:
    done = compare(tmp_path, "--variants", "randon")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: command line: model.attention: no variant 'randon'; did you mean 'random'?"
    ]
