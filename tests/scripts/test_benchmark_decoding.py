"""The benchmark of decoding: its rows, that every system writes what is forced, and its count of useful work."""

import json
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import benchmark_decoding
from benchmarks import decoders, floor, timing
from benchmarks.peers import Shape

KEYS = {"system", "precision", "batch", "sources", "seconds", "cpu_seconds", "floor", "beams", "tokens", "threads"}
TINY = [
    *("--rounds=1", "--sources=8", "--batches", "1", "2", "--source-tokens=12", "--tokens=5", "--beams=2"),
    *("--vocabulary=50", "--width=8", "--layers=2", "--heads=2", "--kernel=default"),
]
SHAPE = Shape(vocabulary=50, width=8, layers=2, heads=2, positions=40, dropout=0.0, attention_dropout=0.0)
SEARCH = decoders.Search(beams=3, tokens=6)


@pytest.mark.slow
def test_every_row_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "rows.json"
    asked = [*TINY, "--systems", "s2s", "--precisions", "fp32", f"--json={record}"]
    assert benchmark_decoding.main(asked) == 0
    rows = json.loads(record.read_text(encoding="utf-8"))
    assert [(row["system"], row["batch"], row["sources"]) for row in rows] == [("s2s", 1, 2), ("s2s", 2, 8)]
    assert all(row.keys() >= KEYS and row["ratio"] == 1 and row["cpu_seconds"] > row["floor"] > 0 for row in rows)
    assert "s2s" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["s2s", "transformers_bart", "transformers_gpt2", "ctranslate2"])
def test_every_system_writes_as_many_tokens_as_are_forced(name: str) -> None:
    if name == "ctranslate2":
        pytest.importorskip("ctranslate2")
    torch.manual_seed(0)
    system = decoders.DECODERS[name].build(SHAPE, SEARCH, "fp32")
    sources = [source for source, _ in timing.random_pairs(numpy.array([(9, 2), (4, 2), (7, 2)]), 50)]
    found = system.decode(sources, 2)
    assert [len(tokens) for tokens in found] == [SEARCH.tokens] * len(sources)
    assert all(0 <= token < SHAPE.vocabulary and token != timing.END for row in found for token in row)
    alone = [system.decode([source], 1)[0] for source in sources]
    assert alone == found


def test_a_comparison_is_of_the_same_size_of_batch_where_there_is_one() -> None:
    def row(system: str, batch: int, *times: float) -> dict[str, object]:
        return {"system": system, "precision": "fp32", "batch": batch, "rounds_cpu_seconds_a_sentence": list(times)}

    rows = [row("s2s", 1, 2.0, 4.0, 4.0), row("s2s", 32, 1.0, 1.0, 1.0), row("ctranslate2", 32, 1.0, 3.0, 2.0)]
    rows.append(row("bert4torch", 1, 8.0, 8.0, 8.0))
    benchmark_decoding.compare(rows)
    assert [each["ratio"] for each in rows] == [1, 1, 2, 2]
    assert rows[3]["ratio_to_batch_32"] == 8
    assert "ratio_to_batch_32" not in rows[2]


def test_the_floor_is_what_torch_counts_without_beams_and_padding() -> None:
    system = decoders.DECODERS["transformers_bart"].build(SHAPE, decoders.Search(1, 1), "fp32")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
        system.model(input_ids=torch.full((1, 9), 5), decoder_input_ids=torch.full((1, 1), 2), use_cache=False)  # type: ignore[attr-defined]
    expected = floor.least_work("transformers_bart", SHAPE, decoders.Search(1, 1), numpy.array([9]))
    assert counter.get_total_flops() == expected


def test_mistakes_of_the_user_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_decoding.main([*TINY, "--systems", "bart"]) == 2
    assert "--systems: no system 'bart'" in capsys.readouterr().err
    assert benchmark_decoding.main([*TINY, "--batches", "3"]) == 2
    assert "--sources: 8 are not 1 .. 64 batches of 3" in capsys.readouterr().err
