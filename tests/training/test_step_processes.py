"""Two processes with two micro-batches each compute what one process computes at once."""

from pathlib import Path

import pytest
import torch
from gradients_worker import UPDATES, Gradients, gradients
from tiny_runs import device_of_two, saved_by_two, together
from torch import Tensor

import s2s
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.processes]

# In exact numbers the gradient of a key's bias is 0; with an epsilon of 1e-8 AdamW would make whole steps of what
# rounding leaves of it.
TINY = [
    *("model.width=16", "model.layers=2", "data.size=400", "run.steps=10", "run.evaluate_examples=5"),
    *("run.precision=fp32", "run.tf32=false", "optimizer.epsilon=1e-4", "schedule.warmup=2", device_of_two()),
]


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The norm of the difference of all tensors as one vector, relative to that of theirs."""
    assert ours.keys() == theirs.keys()
    mine, others = (torch.cat([values[name].double().flatten().cpu() for name in theirs]) for values in (ours, theirs))
    return float((mine - others).norm() / others.norm())


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory: pytest.TempPathFactory) -> list[Gradients]:
    return saved_by_two("gradients_worker.py", tmp_path_factory.mktemp("gradients"), "2")


@pytest.fixture(scope="module")
def whole() -> Gradients:
    return gradients(1)


@pytest.mark.parametrize("update", UPDATES)
def test_gradients_do_not_depend_on_the_processes(update: str, two_by_two: list[Gradients], whole: Gradients) -> None:
    expected, shares, counts = whole[update]
    assert all(gradient.abs().max() > 0 for name, gradient in expected.items() if "norm" not in name)
    for grads, _, units in (process[update] for process in two_by_two):
        assert distance(grads, expected) < 1e-6
        assert units == counts
    assert distance(two_by_two[0][update][0], two_by_two[1][update][0]) == 0
    for name, share in shares.items():
        added = sum(process[update][1][name] for process in two_by_two)
        torch.testing.assert_close(added, share, rtol=1e-6, atol=0)


@pytest.mark.parametrize("accumulation", [2, 4, 40])
def test_gradients_do_not_depend_on_the_micro_batches(accumulation: int, whole: Gradients) -> None:
    for update, (grads, shares, counts) in gradients(accumulation).items():
        assert distance(grads, whole[update][0]) < 1e-6
        assert distance(shares, whole[update][1]) < 1e-6
        assert counts == whole[update][2]


def test_weights_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    arguments = [*TINY, f"run.folder={tmp_path / 'two'}", "run.processes=2", "run.accumulate=2"]
    done = together("-m", "s2s.train", "recipe=toy_copy", *arguments)
    assert done.returncode == 0, done.stderr
    one = s2s.fit(Recipe.load("toy_copy", [*TINY, f"run.folder={tmp_path / 'one'}"]))
    two = s2s.load(tmp_path / "two")
    assert (two.step, two.recipe.run.processes) == (one.step, 2)
    before, _ = build_objective(one.recipe, one.vocabulary)
    weights = one.objective.state_dict()
    assert distance(two.objective.state_dict(), weights) < 1e-5
    assert distance(before.state_dict(), weights) > 1e-2
