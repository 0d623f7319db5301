"""Averages of weights: the moving one of a run, and the mean of its last checkpoints."""

from pathlib import Path

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_runs import place, ready
from torch import Tensor

import s2s
from s2s.commands import average
from s2s.data import load
from s2s.errors import UserError
from s2s.recipe.build import build_objective
from s2s.runs.checkpoints import AVERAGE, WEIGHTS
from s2s.training.ema import MovingAverage

pytestmark = pytest.mark.slow

STEPS = 8


@pytest.fixture(scope="module")
def averaged(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoints all stay, with the average of its last three."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    keys = ["run.ema=0.6", "run.save_every=1", "run.keep=20", "run.average=3", f"run.steps={STEPS}", "run.select=loss"]
    s2s.fit(ready(base, folder, *keys))
    return folder


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name].to(tensor.dtype), rtol=1e-5, atol=1e-7)


def test_the_moving_average_is_that_of_the_weights_after_each_step(averaged: Path) -> None:
    run = s2s.load(averaged, "last", device="cpu")
    expected = dict(build_objective(run.recipe, run.vocabulary)[0].state_dict())
    for step in range(1, STEPS + 1):
        decay = min(0.6, step / (step + 9))
        weights = load_file(place(averaged, step) / WEIGHTS)
        expected = {name: decay * tensor + (1 - decay) * weights[name] for name, tensor in expected.items()}
        close(load_file(place(averaged, step) / AVERAGE), expected)
    close(dict(run.objective.state_dict()), expected)
    assert any((expected[name] - weights[name]).abs().max() > 1e-5 for name in expected)


def test_the_averaged_weights_are_evaluated(averaged: Path) -> None:
    (dev,) = (record["dev"]["loss"] for record in tiny_runs.log(averaged) if "dev" in record)
    run = s2s.load(averaged, "last")
    pairs = [(example.source, example.target) for example in load(run.recipe.data).dev]
    rows = run.score([source for source, _ in pairs], [target for _, target in pairs])
    assert float(-torch.cat(rows).double().mean()) == pytest.approx(dev, rel=1e-5)
    run.objective.load_state_dict(load_file(place(averaged, STEPS) / WEIGHTS))
    rows = run.score([source for source, _ in pairs], [target for _, target in pairs])
    assert float(-torch.cat(rows).double().mean()) != pytest.approx(dev, rel=1e-4)


def test_an_average_in_place_leaves_the_weights_as_they_were() -> None:
    module = torch.nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    moving = MovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight += 1
    moving.update(1)
    with moving.in_place():
        torch.testing.assert_close(module.weight, before["weight"] + 0.9)
    torch.testing.assert_close(module.weight, before["weight"] + 1)


def mean(folder: Path, numbers: list[int]) -> dict[str, Tensor]:
    found = [load_file(place(folder, step) / AVERAGE) for step in numbers]
    return {name: torch.stack([weights[name].double() for weights in found]).mean(dim=0) for name in found[0]}


def test_the_last_checkpoints_are_averaged_at_the_end(averaged: Path) -> None:
    run = s2s.load(averaged, "average", device="cpu")
    assert run.step == STEPS
    close(dict(run.objective.state_dict()), mean(averaged, [6, 7, 8]))
    assert run.generate(["a b c"])[0]


def test_the_command_averages_what_is_kept(averaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert average.main([f"run={averaged}", "last=5"]) == 0
    assert "the average of the steps 4, 5, 6, 7, 8" in capsys.readouterr().out
    close(dict(s2s.load(averaged, "average", device="cpu").objective.state_dict()), mean(averaged, [4, 5, 6, 7, 8]))
    assert average.main([f"run={averaged}", "last=9"]) == 2
    assert "8 whole checkpoints are kept, not 9; run.keep says how many stay" in capsys.readouterr().err
    assert average.main([f"run={averaged / 'nothing'}"]) == 2
    with pytest.raises(UserError, match="keep"):
        tiny_runs.recipe(averaged, "run.keep=1")


def test_a_finished_run_is_left_as_it_is(averaged: Path) -> None:
    average.main([f"run={averaged}", "last=3"])
    before = {path: path.read_bytes() for path in averaged.rglob("*") if path.is_file() and path.name != ".lock"}
    s2s.fit(s2s.Recipe.load(averaged / "recipe.yaml"))
    assert before == {
        path: path.read_bytes() for path in averaged.rglob("*") if path.is_file() and path.name != ".lock"
    }
