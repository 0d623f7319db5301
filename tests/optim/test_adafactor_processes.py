"""Adafactor on DTensors in two processes computes what it computes on whole parameters in one."""

from typing import Any

import pytest
import torch
from adafactor_worker import CASES, train
from tiny_runs import saved_by_two
from torch import Tensor

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return saved_by_two("adafactor_worker.py", tmp_path_factory.mktemp("adafactor"))


def flat(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested dictionaries by their paths."""
    if isinstance(state, dict):
        return {key: value for name, inner in state.items() for key, value in flat(inner, f"{prefix}/{name}").items()}
    return {prefix: torch.as_tensor(state)}


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_computes(case: str, axis: str, two: list[dict[str, Any]]) -> None:
    alone = train(lambda module: module, CASES[case])
    for process in two:
        found = process[f"{case} by {axis}"]
        assert found["weights"].keys() == alone["weights"].keys()
        for name, expected in alone["weights"].items():
            assert (found["weights"][name] - expected).norm() <= 1e-6 * expected.norm(), name
    ours, theirs = flat(two[0][f"{case} by {axis}"]["state"]), flat(alone["state"])
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("case", CASES)
def test_each_process_keeps_half_of_the_state(case: str, axis: str, two: list[dict[str, Any]]) -> None:
    kept = [process[f"{case} by {axis}"]["kept"] for process in two]
    total = train(lambda module: module, CASES[case])["kept"]
    assert sum(kept) == total
    assert max(kept) <= 0.7 * total  # the shapes are tiny and odd, and one element cannot be halved


def test_every_process_refuses_what_is_not_finite_in_one(two: list[dict[str, Any]]) -> None:
    assert [process["refusal"] for process in two] == [two[0]["refusal"]] * 2
    assert "parameter 1 'uneven' of group 0" in two[0]["refusal"]
