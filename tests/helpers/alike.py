"""Comparison of what files and methods return: numbers up to rounding, all else exactly."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch


def assert_alike(ours: Any, theirs: Any, place: str, skipped: Collection[str] = ()) -> None:
    """Compare nested values; keys among ``skipped`` must be on both sides, with any values."""
    if isinstance(ours, torch.Tensor):
        ours, theirs = ours.numpy(), theirs.numpy()
    assert type(ours) is type(theirs), place
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), place
        for key in [key for key in ours if key not in skipped]:
            assert_alike(ours[key], theirs[key], f"{place} {key}", skipped)
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), place
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(one, other, f"{place} {number}", skipped)
    elif np.asarray(ours).dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=place)
    else:
        assert np.array_equal(ours, theirs), f"{place}: {ours} {theirs}"
