"""fp16: the loss scale, what is skipped and what ends a run, and gradients that methods take inside a step."""

import shutil
from pathlib import Path

import pytest
import tiny_runs
import torch
from tiny_runs import assert_same_end, log, ready
from torch import Tensor

import s2s
from s2s.batch import Batch, count
from s2s.data import load
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.machine.precision import Precision, choose_precision
from s2s.objective import Objective
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import read_metadata
from s2s.runs.run_folder import read_vocabulary
from s2s.training.setup import check_processes, prepare
from s2s.training.state import State
from s2s.training.step import made_updates, update
from s2s.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

SCALE = 2.0**14
ROWS = [
    *("{name: fgm}", "{name: fgm, scope: all}", "{name: fgm_article}", "{name: pgd}", "{name: free_lb}"),
    *("{name: vat}", "{name: gradient_penalty}", "{name: gradient_penalty, first_order: true}"),
]


@pytest.fixture(scope="module")
def material(base: Path) -> tuple[Vocabulary, Batch]:
    run = tiny_runs.recipe(base)
    vocabulary = read_vocabulary(base, read_metadata(base))
    return vocabulary, vocabulary.batch([(row.source, row.target) for row in load(run.data).train[:9]])


def gradient(row: str, material: tuple[Vocabulary, Batch], scale: float, half: bool) -> Tensor:
    """All gradients of a method's loss, as they are after they were divided by the scale."""
    vocabulary, batch = material
    keys = ["model.dropout=0", f"mitigations=[{row}]"]
    objective: Objective = build_objective(Recipe.load("toy_copy", [*tiny_runs.TINY, *keys]), vocabulary)[0]
    with torch.autocast("cpu", torch.float16, enabled=half):
        total = objective(batch, 1, count(batch), scale).total
    (total * scale).backward()
    return torch.cat([parameter.grad.flatten() for parameter in objective.parameters()]) / scale


@pytest.mark.parametrize("row", ROWS)
def test_gradients_inside_a_step_are_scaled_and_divided_again(row: str, material: tuple[Vocabulary, Batch]) -> None:
    exact = gradient(row, material, 1.0, half=False)
    assert (gradient(row, material, SCALE, half=False) - exact).norm() < 1e-5 * exact.norm()
    assert (gradient(row, material, SCALE, half=True) - exact).norm() < 1e-2 * exact.norm()


def test_gradients_inside_a_step_do_not_vanish(material: tuple[Vocabulary, Batch]) -> None:
    """Unscaled, a gradient of 1e-8 is 0 in float16."""
    vocabulary, batch = material
    objective = build_objective(tiny_runs.recipe(Path("x")), vocabulary)[0]
    passes = Passes(objective.model, 0.0, objective)
    words = passes.words(batch, "target")
    found = []
    for factor in (None, torch.tensor(2.0**14)):
        passes.grad_scale = factor
        with torch.autocast("cpu", torch.float16):
            hidden = passes.hidden(batch, words)
            rows = torch.nn.functional.linear(hidden, 1e-6 * torch.ones(1, hidden.shape[-1]))
        found.append(passes.gradients(0.01 * rows.float().sum(), words)[0].abs().sum())
    assert found[0] == 0
    assert found[1] > 0


def test_an_fp16_run_learns_is_resumed_to_the_bit_and_logs_its_scale(base: Path, tmp_path: Path) -> None:
    keys = ["run.precision=fp16", "run.save_every=7", "run.steps=20", "mitigations=[{name: fgm}]"]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    s2s.fit(ready(base, whole, *keys))
    records = [record for record in log(whole) if "dev" not in record]
    trained = [record["loss"] for record in records if not record["skipped"]]
    assert trained[-1] < trained[0] - 0.1
    assert all(record["scale"] >= 1 for record in records)
    made = ready(base, halved, *keys)
    s2s.fit(made)
    for step in (14, 20):
        shutil.rmtree(tiny_runs.place(halved, step))
    s2s.fit(made)
    assert_same_end(halved, whole, 20)


def test_an_overflow_skips_the_update_and_halves_the_scale(base: Path, tmp_path: Path) -> None:
    made = ready(base, tmp_path / "run", "run.precision=fp16", "run.steps=3")
    accelerator, folder = check_processes(made), tmp_path / "run"
    precision = Precision("fp16", accelerator.device.type)
    precision.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=2.0**60)
    assert precision.can_shrink(precision.scale)
    prepared = prepare(made, accelerator, folder)._replace(precision=precision)
    objective = build_objective(made, prepared.vocabulary)[0].to(accelerator.device)
    state = State(made.run, objective, made.optimizer.build(objective), precision, None)
    weights = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    updates = made_updates(prepared, 0)
    record = update(prepared, objective, state, next(updates))
    assert (record["skipped"], record["scale"], precision.scale, state.step) == (1, 2.0**60, 2.0**59, 1)
    assert record["norm"] is None
    assert all(torch.equal(tensor, weights[name]) for name, tensor in objective.state_dict().items())
    with torch.no_grad():
        objective.model.embedding.positions.weight[:] = torch.inf
    with pytest.raises(UserError, match=r"step \d+: loss nan"):  # noqa: PT012
        for _ in range(70):
            update(prepared, objective, state, next(updates))
    assert precision.scale < 1


def test_a_precision_is_chosen_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto").name in ("fp32", "bf16")
    monkeypatch.setattr("s2s.machine.precision._half_on_cpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"run.precision: this processor's torch has no float16 products"):
        choose_precision("fp16")
