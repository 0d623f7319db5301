"""How often beam search waits for a GPU, counted on the fake CUDA, and that it finds there what a processor finds."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_devices import found_by, needs_fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kv_cache import ending_model, scorer_of  # noqa: F401 - a fixture
from test_model_scorer import UncachedScorer, assert_same, sources_of

from s2s.inference import kv_cache
from s2s.search import PowerPenalty, beam_search
from s2s.search.beam import LOOK, Rules, search
from s2s.search.length_scores import STOPS

pytestmark = pytest.mark.slow

SEARCHES: dict[str, dict[str, Any]] = {
    "plain": {"beams": 4, "max_length": 40},
    "greedy": {"beams": 1, "max_length": 40},
    "greedy and late": {"beams": 1, "max_length": 40, "min_length": 35},
    "several": {"beams": 4, "max_length": 60, "n_best": 4, "length_penalty": 0.8},
    "first": {"beams": 3, "max_length": 60, "stop": "first"},
    "heuristic": {"beams": 3, "max_length": 60, "n_best": 2, "length_penalty": 0.8, "stop": "heuristic"},
    "late": {"beams": 4, "max_length": 60, "min_length": [0, 50, 40, 1, 60]},
    "uneven": {"beams": 4, "max_length": [40, 3, 23, 0, 1]},
    "wide": {"beams": kv_cache.WIDE + 1, "max_length": 30},
}
CASES = [(family, name) for family in ("prefix_lm", "t5", "llama") for name in SEARCHES]
SEARCHES["long"] = {"beams": 4, "max_length": 180, "min_length": 180}
CASES.append(("prefix_lm", "long"))


def searches(folder: Path, devices: int) -> dict[tuple[str, str], dict[str, Any]]:
    cases = [(family, SEARCHES[name]) for family, name in CASES]
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    results = found_by("search_waits_worker.py", "searches.json", folder, devices=devices)
    return dict(zip(CASES, results, strict=True))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    return searches(tmp_path_factory.mktemp("gpu"), 1)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    return searches(tmp_path_factory.mktemp("cpu"), 0)


@needs_fake_cuda
@pytest.mark.parametrize("case", CASES)
def test_a_search_waits_at_most_once_in_eight_steps(case: tuple[str, str], on_gpu: dict[Any, Any]) -> None:
    result = on_gpu[case]
    waits, steps = result["waits"], len(result["waits"])
    # The sources are encoded without a wait, and the first reorder has one.
    assert waits[:2] == [0, 1], result["places"]
    between = [later - before for before, later in zip(waits[1:], waits[9:], strict=False)]
    # Columns that hypotheses share are counted now and then, which may fall near a look.
    assert max(between) == 1 + (steps > kv_cache.UNCOUNTED), result["places"]
    assert waits[-1] <= 1 + steps / 8
    copies = [place for place in result["places"] if place.startswith("h2d ")]
    assert all("pinned and not waiting" in place for place in copies), copies


@needs_fake_cuda
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_finds_what_a_processor_finds(
    case: tuple[str, str], on_gpu: dict[Any, Any], on_cpu: dict[Any, Any]
) -> None:
    there, here = on_gpu[case], on_cpu[case]
    assert_same(there["hypotheses"], here["hypotheses"])
    # A GPU makes less than ``LOOK`` steps in vain.
    assert 0 <= len(there["waits"]) - len(here["waits"]) < LOOK


@pytest.mark.parametrize(("wide", "room"), [(16, 1), (16, 9), (2, 1)])
@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5),
    beams=st.integers(1, 5),
    every=st.integers(2, 9),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=6)
def test_caches_bear_sources_that_have_stopped(
    ending_model: Any,  # noqa: F811
    wide: int,
    room: int,
    lengths: list[int],
    beams: int,
    every: int,
    seed: int,
) -> None:
    model, sources = ending_model(seed, "pre"), sources_of(lengths, seed)
    longest = [12 - 2 * number for number in range(len(sources))]
    rules = Rules(3, beams, beams, PowerPenalty(0.0), longest, [0] * len(sources), STOPS["first"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "WIDE", wide)
        patch.setattr(kv_cache, "ROOM", room)
        hypotheses = search(scorer_of(model, sources), rules, look_every=every)
    alone = [
        beam_search(UncachedScorer(model, source), beams, length, beams, stop=STOPS["first"])[0]
        for source, length in zip(sources, longest, strict=True)
    ]
    assert_same(hypotheses, alone)
