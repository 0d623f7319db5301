"""Every method: two processes with two micro-batches each compute what one computes at once, under DDP and FSDP2."""

from pathlib import Path

import pytest
from mitigations_worker import EXTRA, REFUSED, TINY, gradient, objective, rows, update
from tiny_runs import saved_by_two
from torch import Tensor

import s2s
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.recipe.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.processes]

NAMES = [*MITIGATIONS, *EXTRA]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    s2s.fit(Recipe.load("toy_copy", [*TINY, "run.steps=2", f"run.folder={folder / 'reference'}"]))
    return folder


@pytest.fixture(scope="module")
def two_by_two(folder: Path) -> list[dict[tuple[str, str], Tensor | str]]:
    return saved_by_two("mitigations_worker.py", folder)


@pytest.fixture(scope="module")
def alone(two_by_two: object, folder: Path) -> dict[str, Tensor]:  # noqa: ARG001
    vocabulary, whole = update(folder)
    gradients = {}
    for name, row in rows(folder).items():
        module = objective(row, vocabulary)
        module(whole, 1).total.backward()
        gradients[name] = gradient(module)
    return gradients


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", NAMES)
def test_the_processes_change_nothing(
    name: str, kind: str, two_by_two: list[dict[tuple[str, str], Tensor | str]], alone: dict[str, Tensor]
) -> None:
    if name in REFUSED[kind]:
        if kind == "fsdp":
            assert all(
                f"'{name}' does not run where parameters are sharded" in gradients[kind, name]
                for gradients in two_by_two
            )
        return
    for gradients in two_by_two:
        assert (gradients[kind, name] - alone[name]).norm() < 1e-6 * alone[name].norm()


@pytest.mark.parametrize("setting", ["run.processes=2", "run.accumulate=2"])
def test_what_needs_whole_updates_is_refused_by_name(setting: str) -> None:
    with pytest.raises(UserError, match=r"mitigations\[0\]: 'fgm_article': its gradient is that of a whole update"):
        Recipe.load("toy_copy", ["mitigations=[{name: fgm_article}]", setting])
