"""The loss over the vocabulary against torch's cross-entropy of all scores at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from s2s.batch import IGNORED
from s2s.losses.vocabulary_loss import ROWS, VocabularyLoss, vocabulary_loss

pytestmark = pytest.mark.usefixtures("tables")
few = settings(deadline=None, max_examples=20)


def inputs(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, 5), (11, 5), (11,)]
    parts = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return parts, torch.randint(11, (rows,), generator=generator)


def at_once(parts: list[Tensor], labels: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(functional.linear(*parts), labels, reduction="sum", label_smoothing=smoothing)


@given(
    rows=st.sampled_from([0, 1, 7, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3]),
    seed=st.integers(0, 99),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    factor=st.floats(-2, 2),
)
@few
def test_it_is_the_cross_entropy_of_all_scores(rows: int, seed: int, smoothing: float, factor: float) -> None:
    parts, labels = inputs(rows, seed)
    loss, nll = vocabulary_loss(*parts, labels, smoothing)
    expected = at_once(parts, labels, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nll, at_once(parts, labels, 0.0).detach(), rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(factor * loss, parts)
    for ours, theirs in zip(found, torch.autograd.grad(factor * expected, parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@given(
    rows=st.sampled_from([1, 7, ROWS + 1]),
    seed=st.integers(0, 99),
    smoothing=st.sampled_from([0.0, 0.3]),
    share=st.sampled_from([0.2, 0.8, 1.0]),
)
@few
def test_ignored_labels_add_nothing(rows: int, seed: int, smoothing: float, share: float) -> None:
    """Loss and gradients are those of the other rows alone, and rows that are ignored have gradients of 0."""
    parts, labels = inputs(rows, seed)
    ignored = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < share
    loss, nll = vocabulary_loss(*parts, labels.masked_fill(ignored, IGNORED), smoothing)
    expected = at_once([parts[0][~ignored], *parts[1:]], labels[~ignored], smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    unsmoothed = at_once([parts[0][~ignored], *parts[1:]], labels[~ignored], 0.0)
    torch.testing.assert_close(nll, unsmoothed.detach(), rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(loss, parts)
    for ours, theirs in zip(found, torch.autograd.grad(expected, parts), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert not found[0][ignored].any()


def test_bfloat16_is_autocast_s_but_for_rounding() -> None:
    parts, labels = inputs(300, 0, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = vocabulary_loss(*parts, labels, 0.1)
    expected = at_once(parts, labels, 0.1)
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, parts), torch.autograd.grad(expected, parts), strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        assert ours.dtype == torch.float32


def keeps_nothing_without_gradients(function: VocabularyLoss, parts: list[Tensor], labels: Tensor) -> None:
    with torch.no_grad():
        loss, nll = function(*parts, labels, 0.0)
    assert not loss.requires_grad
    assert loss == nll
    assert not function(*parts, labels, 0.0)[1].requires_grad


def refuses_a_second_derivative(function: VocabularyLoss, parts: list[Tensor], labels: Tensor) -> None:
    loss, _ = function(*parts, labels, 0.0)
    (gradient,) = torch.autograd.grad(loss, parts[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_without_gradients_nothing_is_kept() -> None:
    keeps_nothing_without_gradients(vocabulary_loss, *inputs(3, 0))


def test_a_second_derivative_is_refused() -> None:
    refuses_a_second_derivative(vocabulary_loss, *inputs(3, 0))
