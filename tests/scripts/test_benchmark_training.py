"""The benchmark of training: its rows, that what it compares computes the same, and its count of useful work."""

import json
import sys
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s2s.batch import Batch, collate
from s2s.model.bert_weights import translate

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import benchmark_training
from benchmarks import peers, processes, systems, timing, training_worker
from benchmarks.peers import Shape

KEYS = {
    *("system", "switches", "precision", "threads", "tokens_per_second", "useful_tokens_per_cpu_second"),
    *("useful_tokens", "seconds", "cpu_seconds", "peak_fraction", "memory_bytes", "ratio", "vocabulary", "width"),
    *("layers", "heads", "torch", "processor"),
}
TINY = [
    *("--repeats=1", "--batches=2", "--batch=3", "--source-tokens=12", "--target-tokens=5"),
    *("--vocabulary=50", "--width=8", "--layers=2", "--heads=2", "--kernel=default"),
]
SHAPE = Shape(vocabulary=50, width=8, layers=2, heads=2, positions=40, dropout=0.0, attention_dropout=0.0)
PEERS = [name for name in systems.SYSTEMS if name.startswith("transformers")]
Lengths = list[tuple[int, int]]
lengths = st.lists(st.tuples(st.integers(2, 9), st.integers(2, 7)), min_size=1, max_size=4)


def pairs(sizes: Lengths) -> peers.Pairs:
    return timing.random_pairs(numpy.array(sizes), SHAPE.vocabulary)


@pytest.mark.slow
def test_every_row_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "rows.json"
    asked = [*TINY, "--switches=ours", "--systems=transformers_bert_sdpa", f"--json={record}"]
    assert benchmark_training.main(asked) == 0
    shown = capsys.readouterr().out
    rows = json.loads(record.read_text(encoding="utf-8"))
    assert [row["system"] for row in rows] == ["s2s", "transformers_bert_sdpa"]
    assert all(row["system"] in shown and row["switches"] is True for row in rows)
    assert all(row.keys() >= KEYS for row in rows)
    assert all(row["useful_tokens"] == 2 * 3 * (12 + 5) for row in rows)
    assert all(row["cpu_seconds"] > 0 and row["memory_bytes"] > 0 and 0 < row["peak_fraction"] < 1 for row in rows)
    speeds = [row["useful_tokens_per_cpu_second"] for row in rows]
    assert [row["ratio"] for row in rows] == pytest.approx([speeds[0] / speed for speed in speeds])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@settings(deadline=None, max_examples=5)
@given(sizes=lengths)
def test_a_masked_bert_gives_our_loss_and_gradient(attention: str, sizes: Lengths) -> None:
    torch.manual_seed(0)
    theirs, ours = peers.TransformersBert(SHAPE, attention), systems.S2S(SHAPE)
    for parameter in theirs.model.parameters():
        parameter.data.normal_(0.1, 0.4)
    original = {name.removeprefix("bert."): value for name, value in theirs.model.state_dict().items()}
    model = ours.model.model
    model.load_state_dict(translate("a peer", model.shape, original, None)[0])
    losses = [system.loss(pairs(sizes)) for system in (ours, theirs)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    for loss in losses:
        loss.backward()
    table = theirs.model.bert.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(model.embedding.tokens.weight.grad, table, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_step_learns_its_batch(name: str, precision: str) -> None:
    torch.manual_seed(0)
    system, batch = systems.SYSTEMS[name][0](SHAPE), pairs([(9, 4), (7, 6)])
    updates, before = systems.optimizer(system), system.loss(batch).item()
    for group in updates.param_groups:
        group["lr"] = 1e-2
    for _ in range(10):
        systems.step(system, updates, batch, precision)
    assert system.loss(batch).item() < before - 0.2


@settings(deadline=None)
@given(sizes=lengths)
def test_the_mask_is_a_loop_over_rows_and_columns(sizes: Lengths) -> None:
    batch = peers.packed(pairs(sizes))
    mask = peers.unilm_mask(batch)
    assert batch.labels.ne(-100).sum(dim=1).tolist() == [target for _, target in sizes]
    for number, (source, target) in enumerate(sizes):
        for row in range(source + target):
            for column in range(batch.ids.shape[1]):
                seen = column < source or (row >= source and column <= row)
                assert (mask[number, 0, row, column] == 0) == seen


def backward_of_ours(system: systems.S2S, batch: Batch) -> None:
    """With torch's own cross-entropy, whose products are counted."""
    model = system.model.model
    hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
    torch.nn.functional.cross_entropy(model.logits(hidden)[0], batch.labels[0]).backward()


@pytest.mark.parametrize(("source", "layers"), [(2, 2), (13, 2), (30, 4)])
def test_useful_work_is_what_torch_counts_without_padding(source: int, layers: int) -> None:
    shape, example = SHAPE._replace(layers=layers), pairs([(source, 2)])
    ours, bart = systems.S2S(shape), peers.TransformersBart(shape)
    # Products count both rows' pairs with both columns, one of which is masked, and our prediction head.
    future, head = 12 * shape.width, 2 * 6 * shape.width**2
    backward = {
        "s2s": (lambda: backward_of_ours(ours, collate(example, timing.PADDING, timing.END)), layers, head),
        "transformers_bart": (lambda: bart.loss(example).backward(), layers // 2, 0),
    }
    for name, (work, masked, more) in backward.items():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            work()
        expected = systems.useful_work(name, shape, numpy.array([(source, 2)]))
        assert counter.get_total_flops() == expected + masked * future + more


def test_all_systems_see_the_same_examples() -> None:
    drawn = timing.ragged(timing.Sizes(4, 30, 8), 3)
    plans = [training_worker.plan(drawn, bucketed) for bucketed in (True, False)]
    assert plans[0].shape == plans[1].shape == (3, 4)
    assert sorted(plans[0].flat) == sorted(plans[1].flat) == list(range(12))
    assert plans[0].tolist() != plans[1].tolist()


def test_an_unknown_system_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_training.main([*TINY, "--systems", "bert4torhc"]) == 2
    assert capsys.readouterr().err == "error: --systems: no system 'bert4torhc'; did you mean 'bert4torch'?\n"


def test_the_allocator_is_told_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    assert (
        processes.environment(switches=True, threads=3).items()
        >= {
            **processes.ALLOCATOR,
            "OMP_NUM_THREADS": "3",
        }.items()
    )
    assert not [name for name in processes.environment(False, 1) if name.startswith("MALLOC_")]
