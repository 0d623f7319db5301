"""Attention over the columns that examples have, by a slow kernel, against masked attention in double precision."""

from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
import slow_flash
import torch
from hypothesis import given, settings
from torch import Tensor

from s2s.model.attention import Slots, softmax_attention
from s2s.model.ragged_attention import Ragged, ragged, ragged_attention
from s2s.model.transformer import _target_mask

HEADS, SIZE = 2, 3
few = settings(max_examples=60, deadline=None)


class SlowKernel(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, starts: slow_flash.Starts, causal: bool, *parts: Tensor) -> Tensor:
        context.given = starts, causal
        context.save_for_backward(*parts)
        return slow_flash.sums(starts, causal, *parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *slow_flash.gradients(*context.given, gradient, *context.saved_tensors)


def slow_kernel(query: Tensor, keys: Tensor, values: Tensor, *numbers: Any, window_size: tuple[int, int]) -> Tensor:
    row_starts, column_starts, most_rows, most_columns = numbers
    assert row_starts.dtype == column_starts.dtype == torch.int32
    starts = row_starts.tolist(), column_starts.tolist()
    assert starts[0][-1] == len(query)
    for most, side in zip((most_rows, most_columns), starts, strict=True):
        assert all(0 <= end - first <= most for first, end in pairwise(side))
    assert window_size in ((-1, 0), (-1, -1))
    sums: Tensor = SlowKernel.apply(starts, window_size == (-1, 0), query, keys, values)
    return sums


def masked(lengths: Tensor, source: int, slots: Slots | None) -> Tensor:
    hidden = torch.arange(source) >= lengths[:, None]
    mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)[:, None, None]
    return mask if slots is None else _target_mask(mask, mask, slots)


def attend(x: Tensor, seen: Tensor | Ragged, source: int, target: int) -> Tensor:
    """Attention of the source's rows, or of the target's to both, from x [3, B, H, S + T, d]."""
    memory = None if target == 0 else (x[1, :, :, :source], x[2, :, :, :source])
    query, *own = x[:, :, :, source:] if target else x
    if isinstance(seen, Ragged):
        return ragged_attention(query, memory, (own[0], own[1]), seen, slow_kernel)
    return softmax_attention(query, x[1], x[2], seen)


def both(lengths: list[int], source: int, target: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Sums and gradients by the two ways; only rows that exist are read further."""
    given_lengths, generator = torch.tensor(lengths), torch.Generator().manual_seed(seed)
    shape = 3, len(lengths), HEADS, source + target, SIZE
    x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    upstream = torch.randn(shape[1:], generator=generator, dtype=torch.float64)[:, :, source * bool(target) :]
    mask = masked(given_lengths, source, Slots(0, target) if target else None)
    results = []
    for seen in (ragged(given_lengths, source, target), mask):
        leaf = x.clone().requires_grad_()
        sums = attend(leaf, seen, source, target)
        results.append((sums, torch.autograd.grad(sums, leaf, upstream)[0]))
    return results


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), pad=st.integers(0, 2), seed=st.integers(0, 999))
@few
def test_source_rows_see_their_own_source(lengths: list[int], pad: int, seed: int) -> None:
    for ours, theirs in zip(*both(lengths, max(lengths) + pad, 0, seed), strict=True):
        torch.testing.assert_close(ours, theirs)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    pad=st.integers(0, 2),
    target=st.integers(1, 5),
    seed=st.integers(0, 999),
)
@few
def test_target_rows_see_their_source_and_their_own_past(lengths: list[int], pad: int, target: int, seed: int) -> None:
    for ours, theirs in zip(*both(lengths, max(lengths) + pad, target, seed), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_source_of_no_columns_has_rows_of_zeros_and_no_gradient() -> None:
    """Attention under a mask that hides all has no meaning; a kernel gives an empty sum, which is 0."""
    (sums, gradient), _ = both([0, 2], 3, 0, 1)
    assert sums[0].eq(0).all()
    assert gradient[:, 0].eq(0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("target", [0, 4])
def test_padding_is_never_read(target: int) -> None:
    lengths, source = torch.tensor([2, 3, 1]), 4
    x = torch.randn(3, 3, HEADS, source + target, SIZE, dtype=torch.float64)
    noisy = x.clone()
    for row, length in enumerate(lengths):
        noisy[1:, row, :, length:source] = torch.nan
    seen = ragged(lengths, source, target)
    assert torch.equal(attend(noisy, seen, source, target), attend(x, seen, source, target))
