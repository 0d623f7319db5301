"""The benchmark of recomputation: its rows, and the search for the largest batch that fits."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import benchmark_large
import benchmark_memory
from benchmarks.recomputation import Trainer, largest

TINY = [
    *("--rounds=1", "--batch=4", "--sizes=2", "--source-tokens=14", "--target-tokens=4", "--vocabulary=50"),
    *("--width=16", "--layers=3", "--heads=2", "--kernel=default"),
]


@pytest.mark.slow
def test_every_row_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "rows.json"
    assert benchmark_memory.main([*TINY, f"--json={record}"]) == 0
    rows = json.loads(record.read_text(encoding="utf-8"))
    expected = [(kind, rows) for kind in benchmark_memory.MODES for rows in (2, 4)]
    assert [(row["checkpointing"], row["batch"]) for row in rows] == expected
    shown = capsys.readouterr().out
    assert all(row["checkpointing"] in shown and row["time_ratio"] > 0 for row in rows)
    kept = {row["checkpointing"]: row["activation_bytes"] for row in rows if row["batch"] == 4}
    assert kept["block"] < kept["selective"] < kept["none"]
    fits = {row["checkpointing"]: row["fits"] for row in rows}
    assert fits["block"] > fits["none"] == 4


def test_activations_are_what_a_larger_batch_adds() -> None:
    trainer = Trainer(benchmark_memory.parser().parse_args(TINY))
    one, two, three = (trainer.activations("none", rows) for rows in (2, 4, 6))
    assert three - two == pytest.approx(two - one, rel=0.05)
    floats = 4 * 18 * 16 * 3  # a float for each token, width and layer
    assert two > 8 * floats


@given(least=st.integers(0, 10**6), each=st.integers(1, 10**5), rows=st.integers(0, 300))
def test_the_largest_batch_is_found_where_memory_is_linear(least: int, each: int, rows: int) -> None:
    asked: list[int] = []

    def peak(number: int) -> int:
        asked.append(number)
        return least + each * number

    assert largest(peak, peak(48 + rows) + each // 2, {16: peak(16), 48: peak(48)}, tries=4) == 48 + rows
    assert len(asked) <= 3 + 4


def test_the_large_model_counts_its_own_process() -> None:
    sizes = ["--layers=1", "--width=16", "--heads=2", "--vocabulary=50", "--source-tokens=8", "--target-tokens=3"]
    row = benchmark_large.measure(benchmark_large.parser().parse_args(sizes))
    assert row["parameters"] < row["memory_bytes"]
    assert row["optimizer"] == "adafactor"
