"""How often the processor waits for a GPU: counted on the fake CUDA, where each wait has a place in the code.

An update reads its norm, losses and units once, at its end. A wait more would leave the GPU without work each time.
"""

from pathlib import Path
from typing import Any

import pytest
from fake_devices import found_by, needs_fake_cuda

pytestmark = [pytest.mark.slow, needs_fake_cuda]

FAMILIES = ("prefix_lm", "t5", "llama")
CASES = [
    *(f"{family} run.precision=fp32{more}" for family in FAMILIES for more in ("", " run.accumulate=4")),
    *(f"{family} run.precision=fp16" for family in FAMILIES),
    "prefix_lm run.precision=bf16 run.ema=0.99",
]

SAMPLED = {
    'prefix_lm run.precision=fp32 mitigations=[{"name":"mrt"}]': 11,
    'prefix_lm run.precision=fp32 mitigations=[{"name":"self_critical"}]': 14,
}
"""Methods that sample within the step, and how often they wait in all: not at each token, nor for each row."""


def updates(folder: Path, devices: int, cases: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = found_by("waits_worker.py", "updates.json", folder, *cases, devices=devices)
    return found


def waits_of(result: dict[str, Any]) -> dict[str, int]:
    return {place: times for place, times in result["waits"].items() if place.startswith("sync ")}


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return updates(tmp_path_factory.mktemp("gpu"), 1, [*CASES, *SAMPLED])


@pytest.mark.parametrize("case", CASES)
def test_an_update_waits_once(case: str, on_gpu: dict[str, Any]) -> None:
    waits = waits_of(on_gpu[case])
    assert sum(waits.values()) == 1, waits
    copies = [place for place in on_gpu[case]["waits"] if place.startswith("h2d ")]
    assert all("pinned and not waiting" in place for place in copies), copies


@pytest.mark.parametrize("case", SAMPLED)
def test_sampling_waits_a_few_times(case: str, on_gpu: dict[str, Any]) -> None:
    waits = waits_of(on_gpu[case])
    assert sum(waits.values()) <= SAMPLED[case], waits


def test_updates_on_a_gpu_are_those_on_a_processor(on_gpu: dict[str, Any], tmp_path: Path) -> None:
    """A GPU computes the rows of padding too, and makes masks whether or not there is padding."""
    whole = [case for case in CASES if "fp32" in case]
    for case, result in updates(tmp_path, 0, whole).items():
        for here, there in zip(result["records"], on_gpu[case]["records"], strict=True):
            assert there == pytest.approx(here, rel=1e-5), case
