"""The softmax over sets of labels against the enumeration of all sets."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from s2s.heads import (
    log_symmetric_polynomials,
    pairwise_loss,
    subset_softmax_loss,
    thresholded_subset_softmax_loss,
    zlpr_loss,
)
from s2s.heads.chains.chain import NOTHING

LABELS, SEEDS = st.integers(1, 6), st.integers(0, 1000)
few = settings(deadline=None, max_examples=25)


def drawn(labels, seed, scale=2.0):
    """Scores, hard targets and a mask of three rows."""
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(3, labels, generator=generator, dtype=torch.float64)
    targets = torch.rand(3, labels, generator=generator) < 0.5
    return scores, targets, torch.rand(3, labels, generator=generator) < 0.8


def polynomial(exponentials, size):
    """The elementary symmetric polynomial, set by set."""
    return sum(math.prod(chosen) for chosen in itertools.combinations(exponentials, size))


@given(labels=LABELS, seed=SEEDS, size=st.integers(0, 7))
@few
def test_the_polynomials_are_sums_over_sets_and_newton_s_identities(labels, seed, size):
    scores, _, _ = drawn(labels, seed)
    logs = log_symmetric_polynomials(scores, size)
    assert logs.shape == (3, size + 1)
    for row, values in zip(scores.exp().tolist(), logs.exp(), strict=True):
        exact = [Fraction(x) for x in row]
        newton, powers = [Fraction(1)], [sum(x**j for x in exact) for j in range(size + 1)]
        for m in range(1, size + 1):
            newton.append(sum((-1) ** (j - 1) * newton[m - j] * powers[j] for j in range(1, m + 1)) / m)
        assert newton == [polynomial(exact, m) for m in range(size + 1)]
        torch.testing.assert_close(values.tolist(), [float(sums) for sums in newton])


def test_no_set_is_larger_than_the_labels():
    scores = torch.tensor([0.0, 1.0, NOTHING])
    assert (log_symmetric_polynomials(scores, 5)[3:] <= NOTHING / 2).all()
    torch.testing.assert_close(log_symmetric_polynomials(scores, 2), log_symmetric_polynomials(scores[:2], 2))
    assert log_symmetric_polynomials(scores, 2).dtype == torch.float64


@given(labels=LABELS, seed=SEEDS)
@few
def test_the_loss_is_cross_entropy_over_all_sets_of_the_size(labels, seed):
    scores, targets, mask = drawn(labels, seed)
    losses = subset_softmax_loss(scores.masked_fill(~mask, torch.nan), targets, mask, "none")
    for row in range(3):
        kept, gold = scores[row][mask[row]], targets[row][mask[row]]
        size = int(gold.sum())
        expected = math.log(polynomial(kept.exp().tolist(), size)) - kept[gold].sum().item()
        torch.testing.assert_close(losses[row].item(), expected)


@given(labels=LABELS, seed=SEEDS, room=st.integers(0, 3), threshold=st.floats(-2, 2))
@few
def test_with_a_threshold_it_is_cross_entropy_over_all_sets_up_to_the_size(labels, seed, room, threshold):
    scores, targets, mask = drawn(labels, seed)
    largest = max(1, int((targets & mask).sum(dim=1).max()) + room)
    losses = thresholded_subset_softmax_loss(scores, targets, largest, threshold, mask, "none")
    for row in range(3):
        kept, gold = scores[row][mask[row]], targets[row][mask[row]]
        sums = [polynomial(kept.exp().tolist(), m) * math.exp((largest - m) * threshold) for m in range(largest + 1)]
        chosen = kept[gold].sum().item() + (largest - int(gold.sum())) * threshold
        torch.testing.assert_close(losses[row].item(), math.log(math.fsum(sums)) - chosen)
        # The article's recursion: Z'_K = e_K + e^(s_0) Z'_(K-1).
        recursive = 1.0
        for m in range(1, largest + 1):
            recursive = polynomial(kept.exp().tolist(), m) + math.exp(threshold) * recursive
        torch.testing.assert_close(recursive, math.fsum(sums))


@given(labels=st.integers(2, 6), seed=SEEDS)
@few
def test_with_one_positive_it_is_cross_entropy(labels, seed):
    scores, _, _ = drawn(labels, seed)
    gold = torch.randint(labels, (3,), generator=torch.Generator().manual_seed(seed))
    expected = functional.cross_entropy(scores, gold, reduction="none")
    torch.testing.assert_close(subset_softmax_loss(scores, functional.one_hot(gold, labels), None, "none"), expected)


@given(labels=LABELS, seed=SEEDS, threshold=st.floats(-2, 2))
@few
def test_over_sets_of_all_sizes_it_is_binary_cross_entropy(labels, seed, threshold):
    scores, targets, _ = drawn(labels, seed)
    losses = thresholded_subset_softmax_loss(scores, targets, labels, threshold, None, "none")
    expected = functional.binary_cross_entropy_with_logits(scores - threshold, targets.double(), reduction="none")
    torch.testing.assert_close(losses, expected.sum(dim=-1))


@given(labels=LABELS, seed=SEEDS)
@few
def test_the_article_s_losses_are_its_first_terms(labels, seed):
    """One swap alone is the pairwise loss; one label added and one removed, with a threshold, is ZLPR."""
    scores, targets, mask = drawn(labels, seed)
    subsets = subset_softmax_loss(scores, targets, mask, "none")
    assert (subsets >= pairwise_loss(scores, targets, mask, "none") - 1e-12).all()
    thresholded = thresholded_subset_softmax_loss(scores, targets, labels, 0.0, mask, "none")
    assert (thresholded >= zlpr_loss(scores, targets, mask, "none") - 1e-12).all()
    far = torch.where(targets, 30.0, -30.0) + scores
    for whole, first in (
        (subset_softmax_loss, pairwise_loss),
        (lambda s, *rest: thresholded_subset_softmax_loss(s, targets, labels, 0.0, *rest[1:]), zlpr_loss),
    ):
        torch.testing.assert_close(
            whole(far, targets, mask, "none"), first(far, targets, mask, "none"), rtol=0, atol=1e-9
        )


def test_gradients_are_finite_differences():
    scores, targets, mask = drawn(5, 3)
    scores.requires_grad_()
    threshold = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: subset_softmax_loss(s, targets, mask, "none"), scores)
    assert torch.autograd.gradcheck(
        lambda s, t: thresholded_subset_softmax_loss(s, targets, 5, t, mask, "none"), (scores, threshold)
    )
    assert torch.autograd.gradcheck(lambda s: log_symmetric_polynomials(s, 5), scores)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="each target 0 or 1"):
        subset_softmax_loss(torch.zeros(2), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="2 positives, more than largest=1"):
        thresholded_subset_softmax_loss(torch.zeros(2, 2), torch.tensor([[1, 1], [0, 0]]), 1)
    with pytest.raises(ValueError, match="largest: 0"):
        thresholded_subset_softmax_loss(torch.zeros(2, 2), torch.zeros(2, 2), 0)
    masked = subset_softmax_loss(torch.zeros(3), torch.tensor([1.0, 0.0, -100.0]), torch.tensor([1, 1, 0]))
    torch.testing.assert_close(masked.item(), math.log(2))
