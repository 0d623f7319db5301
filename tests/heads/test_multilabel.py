"""The multi-label losses against loops over the labels, and the laws that tie them together."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from s2s.heads import pairwise_loss, sparse_zlpr_loss, zlpr_loss, zlpr_probabilities

LABELS, SEEDS = st.integers(1, 7), st.integers(0, 1000)
few = settings(deadline=None, max_examples=25)
LOSSES = pytest.mark.parametrize("loss", [zlpr_loss, pairwise_loss])


def drawn(labels, seed, soft=False, scale=3.0):
    """Scores, targets and a mask of three rows."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(3, labels, generator=generator, dtype=torch.float64)
    chances = torch.rand(3, labels, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, labels, generator=generator) < 0.8
    return scores, chances if soft else (chances < 0.4).double(), mask


def terms(scores, targets, mask):
    """Loops: the sums over negatives and over positives, for each row."""
    for row in range(len(scores)):
        counted = [(s, t) for s, t, m in zip(*(x[row].tolist() for x in (scores, targets, mask)), strict=True) if m]
        yield sum((1 - t) * math.exp(s) for s, t in counted), sum(t * math.exp(-s) for s, t in counted)


@given(labels=LABELS, seed=SEEDS, soft=st.booleans())
@few
def test_the_losses_are_loops_over_the_labels(labels, seed, soft):
    scores, targets, mask = drawn(labels, seed, soft)
    sums = list(terms(scores, targets, mask))
    expected = [math.log(1 + negative) + math.log(1 + positive) for negative, positive in sums]
    torch.testing.assert_close(zlpr_loss(scores, targets, mask, "none").tolist(), expected)
    expected = [math.log(1 + negative * positive) for negative, positive in sums]
    torch.testing.assert_close(pairwise_loss(scores, targets, mask, "none").tolist(), expected)


@LOSSES
@given(labels=LABELS, seed=SEEDS)
@few
def test_reductions_and_leading_shapes_are_torch_s(loss, labels, seed):
    scores, targets, mask = drawn(labels, seed)
    losses = loss(scores, targets, mask, "none")
    assert losses.shape == (3,)
    torch.testing.assert_close(loss(scores, targets, mask), losses.mean())
    torch.testing.assert_close(loss(scores, targets, mask, "sum"), losses.sum())
    assert loss(scores[None], targets[None].bool(), mask[None], "none").equal(losses[None])
    assert loss(scores[0], targets[0].long(), mask[0], "none").equal(losses[0])


@LOSSES
@given(labels=LABELS, seed=SEEDS, soft=st.booleans())
@few
def test_permuted_labels_have_the_same_loss_and_permuted_gradients(loss, labels, seed, soft):
    scores, targets, mask = drawn(labels, seed, soft)
    order = torch.randperm(labels, generator=torch.Generator().manual_seed(seed))
    original, permuted = scores.requires_grad_(), scores.detach()[:, order].requires_grad_()
    first, second = loss(original, targets, mask), loss(permuted, targets[:, order], mask[:, order])
    torch.testing.assert_close(first, second)
    first.backward()
    second.backward()
    torch.testing.assert_close(original.grad[:, order], permuted.grad)


@LOSSES
@given(labels=LABELS, seed=SEEDS)
@few
def test_a_masked_label_is_as_if_it_were_not_there(loss, labels, seed):
    scores, targets, mask = drawn(labels, seed, soft=True)
    dirty = scores.masked_fill(~mask, torch.nan).requires_grad_()
    losses = loss(dirty, targets.masked_fill(~mask, -100), mask, "none")
    for row in range(3):
        kept = mask[row]
        torch.testing.assert_close(losses[row], loss(scores[row][kept], targets[row][kept], None, "none"))
    losses.sum().backward()
    assert dirty.grad.isfinite().all()
    assert not dirty.grad[~mask].any()


@given(labels=LABELS, seed=SEEDS)
@few
def test_zlpr_s_bounds(labels, seed):
    scores, targets, _ = drawn(labels, seed)
    losses = zlpr_loss(scores, targets, None, "none")
    cross_entropy = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(dim=-1)
    assert (losses <= cross_entropy + 1e-12).all()
    assert (losses >= pairwise_loss(scores, targets, None, "none") - 1e-12).all()
    for half in (zlpr_loss(scores, targets, targets == 1, "none"), zlpr_loss(scores, targets, targets == 0, "none")):
        assert (half >= 0).all()
        losses = losses - half
    torch.testing.assert_close(losses, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


@given(labels=LABELS, seed=SEEDS)
@few
def test_each_side_s_gradients_weigh_less_than_one_however_many_labels(labels, seed):
    scores, targets, mask = drawn(labels, seed)
    scores.requires_grad_()
    zlpr_loss(scores, targets, mask, "sum").backward()
    for row, (negative, positive) in enumerate(terms(scores.detach(), targets, mask)):
        at_positives, at_negatives = scores.grad[row][targets[row] == 1], scores.grad[row][targets[row] == 0]
        torch.testing.assert_close(-at_positives.sum().item(), 1 - 1 / (1 + positive))
        torch.testing.assert_close(at_negatives.sum().item(), 1 - 1 / (1 + negative))


@given(labels=st.integers(2, 7), seed=SEEDS)
@few
def test_with_one_positive_the_pairwise_loss_is_cross_entropy_and_zlpr_is_above(labels, seed):
    scores, _, _ = drawn(labels, seed)
    gold = torch.randint(labels, (3,), generator=torch.Generator().manual_seed(seed))
    targets = functional.one_hot(gold, labels)
    expected = functional.cross_entropy(scores, gold, reduction="none")
    torch.testing.assert_close(pairwise_loss(scores, targets, None, "none"), expected)
    assert (zlpr_loss(scores, targets, None, "none") > expected).all()


@given(seed=SEEDS)
@few
def test_the_minimum_for_soft_targets_is_at_their_probability(seed):
    _, targets, _ = drawn(5, seed, soft=True)
    targets = targets.clamp(0.01, 0.99)
    scores = (targets.logit() / 2).requires_grad_()
    torch.testing.assert_close(zlpr_probabilities(scores), targets)
    loss = zlpr_loss(scores, targets, None, "sum")
    loss.backward()
    torch.testing.assert_close(scores.grad, torch.zeros_like(scores), rtol=0, atol=1e-12)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        moved = scores.detach() + 0.1 * torch.randn(3, 5, generator=generator)
        assert zlpr_loss(moved, targets, None, "sum") > loss


@pytest.mark.parametrize("loss", [zlpr_loss, pairwise_loss])
def test_gradients_are_finite_differences_in_scores_and_targets(loss):
    scores, targets, mask = drawn(5, 0, soft=True)
    inputs = (scores.requires_grad_(), targets.clamp(0.1, 0.9).requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, mask, "none"), inputs)
    assert torch.autograd.gradgradcheck(lambda s, t: loss(s, t, mask, "none"), inputs)


@given(labels=LABELS, seed=SEEDS, repeat=st.booleans())
@few
def test_sparse_is_dense(labels, seed, repeat):
    scores, targets, _ = drawn(labels, seed)
    width = int(targets.sum(dim=1).max()) + 1
    rows = [row.nonzero()[:, 0].tolist() for row in targets]
    if repeat:
        rows, width = [row * 2 for row in rows], 2 * width
    padded = torch.tensor([[-1] * (width - len(row)) + row[::-1] for row in rows])
    sparse, dense = scores.clone().requires_grad_(), scores.requires_grad_()
    losses, expected = sparse_zlpr_loss(sparse, padded, "none"), zlpr_loss(dense, targets, None, "none")
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(sparse.grad, dense.grad)


def test_what_does_not_fit_is_refused_or_nan():
    with pytest.raises(ValueError, match="did you mean 'mean'"):
        zlpr_loss(torch.zeros(2), torch.zeros(2), reduction="means")
    with pytest.raises(ValueError, match=r"scores \[2, 3\] and targets \[3\] differ"):
        zlpr_loss(torch.zeros(2, 3), torch.zeros(3))
    for target in (-100.0, 1.5):
        for loss in (zlpr_loss, pairwise_loss):
            assert loss(torch.zeros(3), torch.tensor([0.0, 1.0, target])).isnan()
    assert sparse_zlpr_loss(torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.long)) == pytest.approx(math.log(4))
    assert zlpr_loss(torch.zeros(2, 0), torch.zeros(2, 0)) == 0
    dropped = sparse_zlpr_loss(torch.tensor([-torch.inf, 0.0]), torch.tensor([1]))
    assert dropped == pytest.approx(math.log(2))
