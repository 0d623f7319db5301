"""The CRF in float32 and below, under scores that break careless sums, against float64."""

import math

import numpy
import pytest
import torch
from enumerated_chains import Enumerated, crf_score, random_chains
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import CRF
from s2s.heads.chains.chain import LogMatrix

few = settings(deadline=None, max_examples=20)
SEEDS = st.integers(0, 1000)


def crf_with(transitions):
    crf = CRF(len(transitions))
    crf.transitions.data.copy_(torch.as_tensor(transitions))
    return crf


def forward_loop(emissions, transitions):
    """Log Z of one row by the forward recursion, in float64."""
    ahead, transitions = emissions[0].double().numpy(), transitions.detach().double().numpy()
    for column in emissions[1:].double().numpy():
        ahead = numpy.array([numpy.logaddexp.reduce(ahead + into) for into in transitions.T]) + column
    return float(numpy.logaddexp.reduce(ahead))


def both(crf, emissions, gold, mask):
    """nll, marginals, gradient of the transitions and the best sequence, in float32 and in float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        module = CRF(crf.num_labels).to(dtype)
        module.transitions.data.copy_(crf.transitions.detach())
        rows = emissions.to(dtype)
        nll = module.nll(rows, gold, mask)
        nll.sum().backward()
        scores = module.log_partition(rows, mask).detach()
        results.append((nll.detach(), scores, module.marginals(rows, mask).detach(), module.transitions.grad))
    return zip(*results, strict=True)


def transitions_of(kind, labels, seed):
    """Random, up to 60, or -1e4 for most moves."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(labels, labels, generator=generator)
    barred = torch.rand(labels, labels, generator=generator) < 0.8
    return {"plain": drawn, "sixty": drawn.clamp(-1, 1) * 60, "barred": drawn - 1e4 * barred}[kind]


@pytest.mark.parametrize("kind", ["plain", "sixty", "barred"])
@pytest.mark.parametrize("labels", [3, 60])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32_agrees_with_a_float64_loop(kind, labels, scale):
    crf = crf_with(transitions_of(kind, labels, 0))
    emissions, gold, mask = random_chains([9, 4, 1], labels, 1, scale, torch.float32)
    loops = [forward_loop(row[inside], crf.transitions) for row, inside in zip(emissions, mask, strict=True)]
    nll, partition, marginals, gradient = both(crf, emissions, gold, mask)
    torch.testing.assert_close(partition[1].tolist(), loops, rtol=1e-12, atol=0)
    torch.testing.assert_close(partition[0].double(), partition[1], rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(nll[0].double(), nll[1], rtol=2e-6, atol=1e-4)
    torch.testing.assert_close(marginals[0].double(), marginals[1], rtol=0, atol=2e-4)
    torch.testing.assert_close(gradient[0].double(), gradient[1], rtol=0, atol=5e-4)


def test_a_move_that_costs_ten_thousand_is_made_where_nothing_else_is_left():
    crf = crf_with([[-1e4, -1e4], [-1e4, -1e4 - 100]])
    emissions = torch.tensor([[[0.0, 3.0], [0.0, 200.0], [1.0, -1e4]]], requires_grad=True)
    mask = torch.ones(1, 3)
    reference = Enumerated(crf_score(emissions[0], crf.transitions), 2, 3)
    torch.testing.assert_close(crf.log_partition(emissions, mask).item(), reference.log_partition)
    assert crf.viterbi(emissions, mask)[0][0].tolist() == list(next(iter(reference.scores)))
    torch.testing.assert_close(crf.marginals(emissions, mask)[0].double(), reference.marginals(3))
    crf.log_partition(emissions, mask).sum().backward()
    torch.testing.assert_close(emissions.grad[0].double(), reference.marginals(3))
    torch.testing.assert_close(crf.transitions.grad.double(), reference.pairs())


@given(seed=SEEDS, scale=st.sampled_from([1.0, 100.0, 1e4]), length=st.integers(1, 40))
@few
def test_the_nll_is_never_below_zero(seed, scale, length):
    crf = crf_with(scale * torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)))
    emissions, gold, mask = random_chains([length, 1], 5, seed, scale, torch.float32)
    best, _ = crf.viterbi(emissions, mask)
    for labels in (gold, best):
        losses = crf.nll(emissions, labels, mask)
        assert (losses >= 0).all()
        assert losses.isfinite().all()


def test_a_small_loss_under_large_scores_is_as_exact_as_cross_entropy():
    # log Z and the gold score are near 50,000, where float32 moves by steps of 0.004.
    emissions = torch.zeros(1, 50, 2)
    emissions[..., 0] = 1000.0
    emissions[..., 1] = 988.0
    loss = crf_with(torch.zeros(2, 2)).nll(emissions, torch.zeros(1, 50, dtype=torch.long), torch.ones(1, 50))
    torch.testing.assert_close(loss.item(), 50 * math.log1p(math.exp(-12.0)), rtol=2e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_emissions_are_computed_in_float32(dtype):
    crf = crf_with(transitions_of("plain", 4, 0))
    emissions, gold, mask = random_chains([6, 3], 4, 0, 3.0, dtype)
    exact = emissions.float()
    assert crf.nll(emissions, gold, mask).equal(crf.nll(exact, gold, mask))
    assert crf.marginals(emissions, mask).equal(crf.marginals(exact, mask))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert crf.nll(emissions, gold, mask).equal(crf.nll(exact, gold, mask))
        assert crf.marginals(emissions, mask).equal(crf.marginals(exact, mask))
        assert crf.viterbi(emissions, mask)[1].equal(crf.viterbi(exact, mask)[1])
    low = emissions.nan_to_num().requires_grad_()
    crf.to(dtype).nll(low, gold, mask).sum().backward()
    assert low.grad.dtype == dtype
    assert low.grad.isfinite().all()


@given(seed=SEEDS, scale=st.sampled_from([1.0, 50.0, 1e4]), forbidden=st.floats(0, 0.9))
@few
def test_the_product_in_log_space_is_a_logsumexp(seed, scale, forbidden):
    generator = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(7, 7, generator=generator)
    matrix = matrix.masked_fill(torch.rand(7, 7, generator=generator) < forbidden, -1e30)
    matrix = matrix.fill_diagonal_(0.0).requires_grad_()
    x = (scale * torch.randn(3, 2, 7, generator=generator)).requires_grad_()
    product, weight = LogMatrix(matrix)(x), torch.randn(3, 2, 7, generator=generator)
    expected = (matrix.double() + x.double()[..., None, :]).logsumexp(dim=-1)
    torch.testing.assert_close(product.double(), expected, rtol=1e-6, atol=1e-5)
    gradients = [torch.autograd.grad((result * weight).sum(), [x, matrix]) for result in (product, expected)]
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-5 * max(1.0, scale / 10))


def test_the_rate_multiplier_moves_the_transitions_further():
    plain, faster = CRF(3), CRF(3, boundaries=True, rate_multiplier=100.0)
    faster.transitions = plain.transitions.detach()
    torch.testing.assert_close(faster.transitions, plain.transitions)
    emissions, gold, mask = random_chains([4, 2], 3, 0, 1.0, torch.float32)
    before = plain.transitions.detach().clone()
    for crf in (plain, faster):
        optimizer = torch.optim.Adam(crf.parameters(), lr=1e-3, eps=1e-20)
        crf.nll(emissions, gold, mask).sum().backward()
        optimizer.step()
    torch.testing.assert_close(faster.transitions - before, 100 * (plain.transitions - before), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(faster.starts.abs(), torch.full((3,), 0.1))


@pytest.mark.parametrize("multiplier", [0.0, -1.0])
def test_a_rate_multiplier_that_is_not_above_zero_is_refused(multiplier):
    with pytest.raises(ValueError, match="rate_multiplier"):
        CRF(2, rate_multiplier=multiplier)
