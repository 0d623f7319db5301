"""The multi-label losses in half precision, under scores up to ten thousand, against float64."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import pairwise_loss, sparse_zlpr_loss, subset_softmax_loss, thresholded_subset_softmax_loss, zlpr_loss

DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
few = settings(deadline=None, max_examples=25)
EXTREMES = st.sampled_from([-1e4, -300.0, -1.0, 0.0, 2.0, 300.0, 1e4])


def cases(targets):
    """Each loss as a function of the scores alone."""
    indices = torch.stack([torch.where(row, torch.arange(len(row)), -1) for row in targets])
    return {
        "zlpr": lambda scores: zlpr_loss(scores, targets, None, "none"),
        "sparse": lambda scores: sparse_zlpr_loss(scores, indices, "none"),
        "pairwise": lambda scores: pairwise_loss(scores, targets, None, "none"),
        "subsets": lambda scores: subset_softmax_loss(scores, targets, None, "none"),
        "thresholded": lambda scores: thresholded_subset_softmax_loss(scores, targets, 4, 0.0, None, "none"),
    }


@DTYPES
@given(data=st.data(), labels=st.integers(1, 4))
@few
def test_half_precision_has_the_loss_and_gradient_of_float64(dtype, data, labels):
    rows = st.lists(st.lists(EXTREMES, min_size=labels, max_size=labels), min_size=2, max_size=2)
    scores = torch.tensor(data.draw(rows), dtype=dtype)
    chosen = st.lists(st.booleans(), min_size=labels, max_size=labels)
    targets = torch.tensor(data.draw(st.lists(chosen, min_size=2, max_size=2)))
    for name, loss in cases(targets).items():
        low, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
        losses, expected = loss(low), loss(exact)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(
            losses.double(), expected, rtol=1e-6, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert (losses >= 0).all()
        losses.sum().backward()
        expected.sum().backward()
        resolution = torch.finfo(dtype).eps
        torch.testing.assert_close(low.grad.double(), exact.grad, rtol=resolution, atol=max(2e-6, resolution / 100))


@given(scores=st.lists(EXTREMES, min_size=1, max_size=6), targets=st.lists(st.booleans(), min_size=6, max_size=6))
@few
def test_float64_is_a_loop_in_log_space(scores, targets):
    negative, positive = 0.0, 0.0
    for score, target in zip(scores, targets, strict=False):
        positive = numpy.logaddexp(positive, -score) if target else positive
        negative = negative if target else numpy.logaddexp(negative, score)
    losses = zlpr_loss(torch.tensor(scores, dtype=torch.float64), torch.tensor(targets[: len(scores)]))
    torch.testing.assert_close(losses.item(), float(positive + negative))


@DTYPES
@pytest.mark.parametrize("score", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("target", [0, 1])
def test_all_none_or_masked_labels_are_finite_and_right(dtype, score, target):
    scores = torch.full((2, 5), score, dtype=dtype, requires_grad=True)
    value = scores[0, 0].item()
    targets, mask = torch.full((2, 5), target), torch.tensor([[True] * 5, [False] * 5])
    losses = zlpr_loss(scores, targets, mask, "none")
    side = (-value if target else value) + math.log(5)
    expected = numpy.logaddexp(0.0, side)
    torch.testing.assert_close(losses.tolist(), [float(expected), 0.0], rtol=1e-6, atol=1e-7)
    losses.sum().backward()
    assert not scores.grad[1].any()
    share = (-1 if target else 1) * math.exp(side - expected) / 5
    torch.testing.assert_close(scores.grad[0].tolist(), [share] * 5, rtol=torch.finfo(dtype).eps, atol=0)
    for loss in (pairwise_loss, subset_softmax_loss):
        scores.grad = None
        losses = loss(scores, targets, mask, "none")
        losses.sum().backward()
        assert not losses.any()
        assert not scores.grad.any()  # type: ignore[attr-defined]


@DTYPES
def test_soft_targets_of_low_precision_are_finite(dtype):
    scores = torch.tensor([[1e4, -1e4, 1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0, 0.5, 0.25, 1.0]], dtype=dtype, requires_grad=True)
    for loss in (zlpr_loss, pairwise_loss):
        losses = loss(scores, targets)
        torch.testing.assert_close(losses.item(), 2e4, rtol=5e-3, atol=0)
        losses.backward()
        assert scores.grad.isfinite().all()
        assert targets.grad.isfinite().all()


def test_many_dominating_positives_do_not_cancel():
    scores = torch.cat([torch.full((1, 50), 40.0), torch.full((1, 3), -20.0)], dim=1).requires_grad_()
    losses = sparse_zlpr_loss(scores, torch.arange(50)[None])
    torch.testing.assert_close(losses.item(), 3 * math.exp(-20.0), rtol=1e-3, atol=1e-7)
    losses.backward()
    torch.testing.assert_close(scores.grad[0, 50:], torch.full((3,), math.exp(-20.0)))
