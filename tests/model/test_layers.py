"""Linear maps by oneDNN against float64, and dropout of 16 bits an element against its mean, rate and generator."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mitigations_worker import rows
from test_recomputation import objective, results
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from s2s.batch import Batch
from s2s.model import layers as module
from s2s.model.layers import Dropout, Linear, linear
from s2s.vocabulary import Vocabulary

needs_one_dnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


@pytest.fixture
def always() -> Iterator[None]:
    """Let oneDNN multiply matrices of any size."""
    with patch.object(module, "LARGE", 0):
        yield


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()


def gradients(x: Tensor, weight: Tensor, bias: Tensor | None, function: object) -> list[Tensor]:
    """Rows, first gradients, and second ones: of the length of the first with respect to all."""
    given = [each for each in (x, weight, bias) if each is not None]
    rows = function(x, weight, bias)  # type: ignore[operator]
    first = grad(rows.sin().sum(), given, create_graph=True)
    return [rows, *first, *grad(sum(each.square().sum() for each in first), given)]


@needs_one_dnn
@settings(deadline=None, max_examples=40)
@given(
    leading=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_and_gradients_are_those_of_float64(
    leading: list[int], inputs: int, outputs: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = drawn(*leading, inputs), drawn(outputs, inputs)
    bias = drawn(outputs) if biased else None
    with patch.object(module, "LARGE", 0):
        found = gradients(x, weight, bias, linear)
    wide = [None if each is None else each.detach().double().requires_grad_() for each in (x, weight, bias)]
    exact = gradients(*wide, functional.linear)  # type: ignore[arg-type]
    plain = gradients(x, weight, bias, functional.linear)
    for mine, torchs, theirs in zip(found, plain, exact, strict=True):
        assert mine.dtype == torch.float32
        # Where the cosine of a row is near 0 its rounding is most of a gradient, for torch's product as well.
        assert (mine - theirs).norm() <= max(1e-5 * theirs.norm() + 1e-6, 2 * (torchs - theirs).norm())


@needs_one_dnn
@pytest.mark.usefixtures("always")
def test_strides_do_not_matter() -> None:
    """Rows and weights that are views, and a gradient whose elements are one number."""
    torch.manual_seed(0)
    x, weight = drawn(6, 5, 8).transpose(0, 1)[..., ::2], drawn(9, 12)[3:, 4:8]
    found, wanted = (
        grad(function(x, weight).sum(), [x, weight], retain_graph=True) for function in (linear, functional.linear)
    )
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@needs_one_dnn
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("asked", [[0], [1], [0, 1], [0, 1, 2], [2]])
def test_only_gradients_that_are_asked_for_are_computed(asked: list[int]) -> None:
    """Methods that move embeddings walk back to them alone, past weights that need gradients too."""
    leaves = [drawn(6, 5), drawn(7, 5), drawn(7)]
    loss = linear(leaves[0] * 1, *leaves[1:]).sum()
    with FlopCounterMode(display=False) as counter, patch.object(module, "multiply", wraps=module.multiply) as ours:
        found = grad(loss, [leaves[index] for index in asked])
    assert [each.shape for each in found] == [leaves[index].shape for index in asked]
    assert ours.call_count == (0 in asked)
    assert counter.get_total_flops() == 2 * 6 * 5 * 7 * (1 in asked)


@needs_one_dnn
def test_small_and_other_products_are_torchs() -> None:
    weight = drawn(8, 8)
    large = module.LARGE // 64
    with patch.object(module, "multiply", wraps=module.multiply) as ours:
        linear(drawn(large - 1, 8), weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(drawn(large, 8), weight).dtype == torch.bfloat16
        linear(drawn(large, 8, dtype=torch.float64), weight.double())
        assert not ours.called
        linear(drawn(large, 8), weight)
        assert ours.called


def test_frozen_weights_get_no_gradient() -> None:
    with patch.object(module, "LARGE", 0):
        layer = Linear(4, 3)
        layer.weight.requires_grad_(False)
        layer(torch.ones(2, 4)).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [2.0, 2.0, 2.0]


@needs_one_dnn
@pytest.mark.parametrize("name", ["", "fgm", "gradient_penalty", "r_drop"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_losses_and_gradients_stay(name: str, norm: str, materials: tuple[Path, Vocabulary, Batch]) -> None:
    """With the default product but for rounding; to the bit where blocks recompute."""
    folder, vocabulary, batch = materials
    row, keys = rows(folder)[name] if name else "", [f"model.norm={norm}", "model.dropout=0.1"]
    loss, gradients = results(objective(row, vocabulary, *keys), batch)
    with patch.object(module, "LARGE", 0):
        found = [
            results(objective(row, vocabulary, *keys, f"run.checkpointing={kept}"), batch)
            for kept in ("none", "block", "selective")
        ]
    torch.testing.assert_close(found[0][0], loss, rtol=1e-5, atol=0)
    assert (found[0][1] - gradients).norm() <= 1e-4 * gradients.norm()
    for again in found[1:]:
        assert all(map(torch.equal, again, found[0]))


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
