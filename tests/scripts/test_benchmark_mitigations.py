"""The benchmark of the mitigations: its rows, its lengths, its measures, and that what it compares is comparable."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import IGNORED, Batch, count
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import Mitigation, PreparedMethod
from s2s.mitigations.adversarial import FastGradient
from s2s.mitigations.base import StepContext
from s2s.mitigations.consistency import NoiseConsistency
from s2s.mitigations.gradient_penalty import GradientPenalty
from s2s.mitigations.scheduled_sampling import ScheduledSampling
from s2s.model import PrefixTransformer
from s2s.objective import Objective, ObjectiveSettings
from s2s.optim import AdamW
from s2s.randomness import Draws

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import benchmark_mitigations
from benchmarks import timing
from benchmarks.whole_methods import (
    GivenRisk,
    WholeFastGradient,
    WholeNoiseConsistency,
    WholePenalty,
    WholeScheduledSampling,
)

ROWS = [
    *("teacher_forcing", "random_replacement", "scheduled_sampling", "scheduled_sampling_whole", "fgm_target"),
    *("fgm_whole", "penalty_target", "penalty_first_order", "penalty_whole_target", "r_drop_target", "r_drop_all"),
    *("noise_consistency", "noise_consistency_whole", "teaforn_2", "mrt_8", "distillation", "distillation_on_policy"),
]
KEYS = {
    *("system", "name", "precision", "threads", "batch", "source_tokens", "target_tokens", "useful_tokens"),
    *(
        "seconds",
        "cpu_seconds",
        "rounds",
        "time_ratio",
        "memory_ratio",
        "memory_bytes",
        "torch",
        "processor",
        "kernel",
        "cpu_ratio",
    ),
}
TINY = [
    *("--rounds=1", "--warmup=1", "--batches=2", "--batch=3", "--source-tokens=12", "--target-tokens=5"),
    *("--vocabulary=50", "--width=8", "--layers=2", "--heads=2", "--device=cpu", "--kernel=default"),
]
CPU = torch.device("cpu")
Models = Callable[..., PrefixTransformer]
Batches = Callable[..., Batch]


@pytest.mark.slow
def test_every_row_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "rows.json"
    assert benchmark_mitigations.main([*TINY, "--json", str(record)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ROWS)
    rows = json.loads(record.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ROWS
    assert all(row.keys() >= KEYS for row in rows)
    assert all(row["useful_tokens"] == 3 * (12 + 5) for row in rows)
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["memory_bytes"] > 0 for row in rows)
    assert (rows[0]["time_ratio"], rows[0]["memory_ratio"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["t5", "llama"])
def test_chosen_rows_of_other_backbones_are_measured(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "rows.json"
    asked = [f"--backbone={backbone}", "--rows", "fgm_target", "scheduled_sampling_whole"]
    assert benchmark_mitigations.main([*TINY, *asked, f"--json={record}"]) == 0
    rows = json.loads(record.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == ["teacher_forcing", "scheduled_sampling_whole", "fgm_target"]
    assert {row["backbone"] for row in rows} == {backbone}
    with pytest.raises(SystemExit):
        benchmark_mitigations.main([*TINY, *asked, "fgm_targt"])
    assert "--rows: no 'fgm_targt'; did you mean 'fgm_target'?" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["prefix_lm", "t5", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_row_has_gradients_and_leaves_the_weights(random_batch: Batches, precision: str, backbone: str) -> None:
    arguments = benchmark_mitigations.parser().parse_args([*TINY, f"--backbone={backbone}"])
    model = benchmark_mitigations.build(arguments, longest=30)
    before, norms = [each.clone() for each in model.parameters()], []
    optimizer = AdamW(rate=0.0).build(model)
    optimizer.register_step_pre_hook(lambda *_: norms.append(sum(p.grad.norm().item() for p in model.parameters())))
    rows = benchmark_mitigations.objectives(model, 9, 8, benchmark_mitigations.methods(backbone))
    for objective in rows.values():
        benchmark_mitigations.step(objective, optimizer, random_batch([(9, 4), (7, 6)]), precision)
    assert len(norms) == len(rows)
    assert all(0 < norm < float("inf") for norm in norms)
    for each, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(each, old)


def gradients(model: PrefixTransformer, method: Mitigation, batch: Batch) -> tuple[float, torch.Tensor]:
    """The loss, and the gradient of all parameters as one vector."""
    model.zero_grad()
    losses = Objective(model, ObjectiveSettings(), [PreparedMethod("method", method)])(batch)
    losses.total.backward()
    found = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    return losses.total.item(), torch.cat([each.flatten() for each in found]).clone()


@settings(deadline=None, max_examples=8)
@given(
    sizes=st.lists(st.tuples(st.integers(2, 9), st.integers(0, 7)), min_size=1, max_size=4),
    weight=st.sampled_from([0.3, 0.5]),
    epsilon=st.sampled_from([0.01, 1.0]),
)
def test_whole_passes_give_the_loss_and_gradient_of_shared_ones(
    random_model: Models, random_batch: Batches, sizes: list[tuple[int, int]], weight: float, epsilon: float
) -> None:
    model, batch = random_model(), random_batch(sizes)
    for whole, shared in ((WholeFastGradient, FastGradient), (WholePenalty, GradientPenalty)):
        loss, gradient = gradients(model, whole(weight=weight, epsilon=epsilon), batch)
        expected, reference = gradients(model, shared(weight=weight, epsilon=epsilon), batch)
        assert loss == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-9 * float(reference.norm()))


def test_sources_encoded_again_change_nothing_without_dropout(random_model: Models, random_batch: Batches) -> None:
    model, batch = random_model(), random_batch([(4, 5), (7, 1), (6, 6)])
    for whole, shared in (
        (WholeNoiseConsistency(rate=0.5), NoiseConsistency(rate=0.5)),
        (WholeScheduledSampling(policy="always", noise=1.0), ScheduledSampling(policy="always", noise=1.0)),
    ):
        loss, gradient = gradients(model, whole, batch)
        expected, reference = gradients(model, shared, batch)
        assert loss == pytest.approx(expected, rel=1e-9)
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-9 * float(reference.norm()))


def test_given_candidates_are_scored_as_if_alone(random_model: Models, random_batch: Batches) -> None:
    model, batch, method = random_model(), random_batch([(4, 5), (7, 1)]), GivenRisk(candidates=3, alpha=0.5)
    objective = Objective(model, ObjectiveSettings(), [PreparedMethod("mrt", method)])
    turn = StepContext(Passes(model, 0.0, objective), Draws(batch.seeds, "mrt"), count(batch), 0, 1.0)
    packed, costs, risk = method._packed(batch, turn), turn.draws.uniform("cost", 3), torch.zeros(())
    memory = model.encode(batch.source, batch.source_lengths)
    for row in range(2):
        scores = []
        for target, labels in zip(packed.target.unbind(1), packed.labels.unbind(1), strict=True):
            found = model.logits(model.decode(target, memory))[row].log_softmax(dim=-1)
            scores.append(sum(found[place, label] for place, label in enumerate(labels[row]) if label != IGNORED))
        risk = risk + (torch.softmax(0.5 * torch.stack(scores), dim=0) * costs[row]).sum()
    assert objective(batch).total.item() == pytest.approx(risk.item() / 2, rel=1e-9)
    assert (packed.lengths() - (batch.labels != IGNORED).sum(dim=1, keepdim=True)).abs().max() <= 2


@settings(deadline=None)
@given(rows=st.integers(1, 6), source=st.integers(2, 200), target=st.integers(2, 40), batches=st.integers(1, 5))
def test_lengths_keep_their_means(rows: int, source: int, target: int, batches: int) -> None:
    found = timing.ragged(timing.Sizes(rows, source, target), batches)
    assert found.shape == (batches, rows, 2)
    assert found.mean(axis=(0, 1)).tolist() == [source, target]
    assert (found >= 2).all()
    batch = timing.random_batch(found[0], vocabulary=30)
    labels = (batch.labels != IGNORED).sum(dim=1)
    assert torch.stack([batch.source_lengths, labels], dim=1).tolist() == found[0].tolist()


def test_lengths_within_a_batch_are_close_and_batches_differ() -> None:
    found = timing.ragged(timing.Sizes(32, 180, 20), 3)[..., 0]
    assert (found.max(axis=1) - found.min(axis=1) <= 16).all()
    assert (found.mean(axis=1)[1:] - found.mean(axis=1)[:-1] > 40).all()


def test_the_command_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark_mitigations.main([*TINY, "--batches=65"]) == 2
    assert capsys.readouterr().err == "error: --batches: 65 is not in 1 .. 64\n"


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="two tokens"):
        timing.ragged(timing.Sizes(4, 10, 1), 2)


def test_every_work_runs_once_a_round_in_a_rotated_order() -> None:
    ran: list[tuple[str, int]] = []
    works = {name: lambda number, name=name: ran.append((name, number)) for name in "abc"}
    times = timing.interleaved(works, rounds=3, warmup=1, device=CPU)
    assert ran == [
        *[("c", -1), ("a", -1), ("b", -1), ("a", 0), ("b", 0), ("c", 0)],
        *[("b", 1), ("c", 1), ("a", 1), ("c", 2), ("a", 2), ("b", 2)],
    ]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_peak_is_what_lives_at_one_time() -> None:
    def work() -> None:
        first = torch.zeros(1000, dtype=torch.float64)
        second = torch.zeros(500, dtype=torch.float64)
        del first
        third = torch.zeros(700, dtype=torch.float64)
        del second, third

    assert timing.peak_bytes(work, CPU) == 8 * 1500


def test_ratios_are_paired_within_rounds() -> None:
    times = {
        "one": [timing.Time(1.0, 0.5), timing.Time(10.0, 0.7), timing.Time(4.0, 0.6)],
        "two": [timing.Time(3.0, 2.0), timing.Time(20.0, 4.0), timing.Time(4.0, 3.0)],
    }
    row = timing.summarised(times, {"one": 100, "two": 150})[1]
    assert (row["time_ratio"], row["time_ratio_min"], row["time_ratio_max"]) == (2.0, 1.0, 3.0)
    assert row["cpu_ratio"] == pytest.approx(5.0)
    assert (row["seconds"], row["cpu_seconds"], row["rounds"], row["memory_ratio"]) == (4.0, 3.0, 3, 1.5)
