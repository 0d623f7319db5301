"""A GPU's attention gets each mask in its own type and stride: layers neither cast nor copy it. On the fake CUDA."""

from typing import Any

import pytest
import torch
from fake_devices import found_by, needs_fake_cuda

from s2s.model.attention import Slots, kernel_mask
from s2s.model.transformer import _target_mask

HALVES = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}
CLOSE = {"fp32": 1e-6, "bf16": 2e-2, "fp16": 5e-3}
CAST = {"shared": 1 + 3, "separate": 1}
"""The masks of a search that autocast has cast: that of the sources and, in a shared buffer, one for each of 3 steps.

Steps with a cache for each hypothesis compute the softmax themselves, in float32.
"""

Found = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    masks: Found = found_by("masks_worker.py", "masks.json", tmp_path_factory.mktemp("masks"))
    return masks


@pytest.mark.slow
@needs_fake_cuda
def test_layers_of_an_update_neither_cast_nor_copy_masks(found: Found) -> None:
    assert len(found["updates"]) == 3 * 3 * 3
    for case, row in found["updates"].items():
        attention, *_, precision = case.split(", ")
        assert row["operations"] == {}, case
        assert max(row["distances"]) <= CLOSE[precision], (case, row["distances"])
        # The Synthesizers' scores are added to masks by no kernel of torch's.
        kernels = [[HALVES.get(precision, "torch.float32")] * 2] if attention == "dot" else []
        assert row["types"] == kernels, case
        assert all(stride % 8 == 0 for stride in row["strides"]), case


@pytest.mark.slow
@needs_fake_cuda
def test_a_step_makes_one_mask_for_all_layers(found: Found) -> None:
    assert len(found["steps"]) == 2 * 4
    for case, row in found["steps"].items():
        kind, precision = case.split(", ")
        casts = {"_to_copy": CAST[kind]} if "autocast" in precision else {}
        # The sources' mask is padded, and one for each of 3 steps.
        assert row["operations"] == {"constant_pad_nd": 1 + 3} | casts, case
        assert row["types"] == [[HALVES.get(precision[:4], "torch.float32")] * 2], case
        assert all(stride % 8 == 0 for stride in row["strides"]), case


def test_a_processor_keeps_its_masks() -> None:
    source = torch.zeros(2, 1, 1, 5)
    source[1, ..., 3:] = -torch.inf
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            assert kernel_mask(source, source) is source
    mask = _target_mask(source, source, Slots(0, 2, 3))
    assert mask.shape == (2, 1, 6, 11)
    assert mask.is_contiguous()
    for row in range(6):
        for column in range(11):
            copy, own = divmod(row, 2)
            seen = column < 5 or ((column - 5) // 2 == copy and (column - 5) % 2 <= own)
            assert mask[0, 0, row, column] == (0 if seen else -torch.inf)
            assert mask[1, 0, row, column] == (-torch.inf if column in (3, 4) else mask[0, 0, row, column])
