"""Dropout of 16 bits an element against what its mean, rate and generator demand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.model.layers import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_share_and_scale(rate: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1000, 301))
    share = float((dropped == 0).double().mean())
    assert abs(share - rate) < 5 * (rate * (1 - rate) / dropped.numel()) ** 0.5
    rounded = round(rate * 65536) / 65536
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - rounded)], rel=1e-6)


def test_elements_are_dropped_independently() -> None:
    """Neighbours, and elements that share a draw of 64 bits, are dropped together as often as chance has it."""
    torch.manual_seed(0)
    gone = (Dropout(0.5)(torch.ones(1 << 18)) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 5, 64, 4096):
        assert abs(float((gone[distance:] * gone[:-distance]).mean())) < 5 * 0.25 / (1 << 9)


@settings(deadline=None, max_examples=20)
@given(shape=st.lists(st.integers(0, 5), max_size=3), seed=st.integers(0, 99))
def test_the_generator_fixes_what_is_dropped(shape: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    dropout, state, x = Dropout(0.4), torch.get_rng_state(), torch.rand(shape) + 1
    torch.set_rng_state(state)
    first, second = dropout(x), dropout(x)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), first)
    assert first.shape == x.shape
    if x.numel() > 40:
        assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_types_stay_and_gradients_are_the_same_mask(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.rand(50, 7) + 1).to(dtype).requires_grad_()
    y = Dropout(0.3)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == gradient.dtype == dtype
    assert torch.equal(y, x * gradient)


def test_nothing_is_dropped_or_drawn_without_training_or_rate() -> None:
    x, state = torch.rand(9), torch.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not Dropout(1.0)(x).any()
