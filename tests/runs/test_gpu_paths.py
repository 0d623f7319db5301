"""A GPU's attention without masks: taken where it runs, is right and is faster, and then it trains as masks do.

The fake CUDA computes by a slow kernel in the place of torch's, so speed is given and everything else is real.
"""

from typing import Any

import pytest
from fake_devices import found_by, needs_fake_cuda

from s2s.errors import UserError
from s2s.machine.paths import GPU_WAYS, WAYS, computing, way
from s2s.recipe.recipe import Recipe

ROUNDED = 2e-2
"""How far bfloat16 may be from single precision on the processor."""
TEACHER_FORCING = {"forward": 1 + 2, "backward": 1 + 2}
"""Calls of two layers: of the last one, the source needs no attention."""

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    rows: Found = found_by("ragged_worker.py", "ragged.json", tmp_path_factory.mktemp("ragged"))
    return rows


@pytest.mark.slow
@needs_fake_cuda
def test_the_kernel_is_taken_only_where_it_runs_is_right_and_faster(found: Found) -> None:
    ways = {case: chosen for case, (chosen, *_) in found["choices"].items()}
    kernel = {"a faster kernel", "in float16", "pinned"}
    without = {"in float32", "compiled", "a Synthesizer", "saved before there were ways"}
    assert {case for case, chosen in ways.items() if chosen == "varlen"} == kernel
    assert {case for case, chosen in ways.items() if chosen == ""} == without
    reasons = {case: reason for case, (_, *reason) in found["choices"].items()}
    assert reasons["no kernel"][0].startswith(", gpu_attention mask (varlen does not run: Could not run 'aten::_flash")
    assert "varlen is 0.1 from single precision, where 0.00" in reasons["a wrong kernel"][0]
    assert reasons["a faster kernel"] == [", gpu_attention varlen (varlen 2.00 times as fast as mask)"]
    assert reasons["pinned"] == [", gpu_attention varlen (run.paths)"]


@pytest.mark.slow
@needs_fake_cuda
def test_updates_without_masks_are_those_of_the_processor(found: Found) -> None:
    for name, row in found["updates"].items():
        assert max(row["loss"], row["gradient"]) <= ROUNDED, name
        calls = {kind: row[kind] for kind in TEACHER_FORCING}
        # Copies of a target side by side have masks, and so has what is differentiated twice; their sources have none.
        if name in ("r_drop_target", "gradient_penalty"):
            assert calls == {"forward": 1, "backward": 1}, name
        elif name == "checkpointing block":
            assert calls == {"forward": 6, "backward": 3}
        else:
            assert all(calls[kind] >= times for kind, times in TEACHER_FORCING.items()), name


@pytest.mark.slow
@needs_fake_cuda
def test_a_run_keeps_its_way_and_trains_as_one_with_masks(found: Found) -> None:
    runs = found["runs"]
    assert [ways["gpu_attention"] for ways in runs["ways"]] == ["varlen", "varlen", "mask"]
    end = "gpu_attention varlen (varlen 2.00 times as fast as mask)"
    assert runs["lines"] == [f"products: float32 ones in TF32 on the GPU (run.tf32), {end}"]
    assert runs["calls"] >= 3 * TEACHER_FORCING["backward"]
    ragged, masked = runs["losses"]
    assert len(ragged) == 3
    assert ragged == pytest.approx(masked, rel=ROUNDED)


def test_a_gpu_s_way_can_be_pinned_anywhere() -> None:
    assert not GPU_WAYS.keys() & WAYS.keys()
    assert way("gpu_attention") == "mask"
    with computing({"gpu_attention": "varlen"}):
        assert way("gpu_attention") == "varlen"
    assert Recipe.load("toy_copy", ["run.paths={gpu_attention: mask}"]).run.paths == {"gpu_attention": "mask"}
    with pytest.raises(UserError, match=r"run\.paths\.gpu_attention: 'flash' is neither mask nor varlen"):
        Recipe.load("toy_copy", ["run.paths={gpu_attention: flash}"])
    with pytest.raises(UserError, match=r"run\.paths: no path 'gpu_attentoin'.*gpu_attention"):
        Recipe.load("toy_copy", ["run.paths={gpu_attentoin: mask}"])
