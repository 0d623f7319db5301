"""The MEMM's parameters, precision and padding."""

import pytest
import torch
from enumerated_chains import random_chains, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import CRF, MEMM

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)
few = settings(deadline=None, max_examples=15)


@given(lengths=LENGTHS, seed=st.integers(0, 1000), both=st.booleans(), extra=st.integers(1, 3))
@few
def test_more_padding_changes_nothing(lengths, seed, both, extra):
    model = randomise(MEMM(3, both), seed)
    emissions, gold, mask = random_chains(lengths, 3, seed)
    wide_mask = torch.nn.functional.pad(mask, (0, extra))
    wide = torch.nn.functional.pad(emissions, (0, 0, 0, extra), value=torch.inf)
    wide_gold = torch.nn.functional.pad(gold, (0, extra), value=7)
    torch.testing.assert_close(model.nll(wide, wide_gold, wide_mask), model.nll(emissions, gold, mask))
    torch.testing.assert_close(model.marginals(wide, wide_mask)[:, :-extra], model.marginals(emissions, mask))
    assert model.viterbi(wide, wide_mask)[0][:, :-extra].equal(model.viterbi(emissions, mask)[0])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("rank", [None, 2])
def test_low_precision_emissions_are_computed_in_float32(both, rank):
    model = MEMM(4, both, rank)
    emissions, gold, mask = random_chains([6, 3], 4, 0, 3.0, torch.bfloat16)
    exact = emissions.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.nll(emissions, gold, mask).equal(model.nll(exact, gold, mask))
        scores = model.viterbi(emissions, mask)[1]
    assert scores.equal(model.viterbi(exact, mask)[1])
    outside = model.nll(exact, gold, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.nll(exact, gold, mask).equal(outside)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("rank", [None, 1])
def test_gradients_are_finite_differences(both, rank):
    model = randomise(MEMM(3, both, rank), 0)
    emissions, gold, mask = random_chains([3, 1], 3, 0)
    emissions = emissions.nan_to_num().requires_grad_()
    inputs = [emissions, *model.parameters()]
    assert torch.autograd.gradcheck(lambda scores, *_: model.nll(scores, gold, mask), inputs)


def test_padding_has_no_gradient_and_every_parameter_has_one():
    for rank in (None, 2):
        model = randomise(MEMM(3, bidirectional=True, rank=rank), 0)
        emissions, gold, mask = random_chains([1, 3], 3, 0)
        emissions.requires_grad_()
        model.nll(emissions, gold, mask).sum().backward()
        assert not emissions.grad[~mask].any()
        assert emissions.grad.isfinite().all()
        model.zero_grad()
        model.nll(emissions[:1, :1], gold[:1, :1], mask[:1, :1]).sum().backward()
        assert all(not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_low_rank_transitions_have_that_rank_and_few_parameters(rank):
    model = MEMM(5, rank=rank)
    assert torch.linalg.matrix_rank(model.transitions) == rank
    assert sum(parameter.numel() for parameter in model.parameters()) == 2 * 5 * rank
    wanted = torch.randn(5, rank) @ torch.randn(rank, 5)
    model.transitions = wanted
    torch.testing.assert_close(model.transitions, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_rate_multiplier_leaves_the_initial_value_and_scales_the_step(rank):
    plain, faster = MEMM(4, rank=rank), MEMM(4, rank=rank, rate_multiplier=100.0)
    faster.transitions = plain.transitions.detach()
    torch.testing.assert_close(faster.transitions, plain.transitions)
    emissions, gold, mask = random_chains([4, 2], 4, 0, 1.0, torch.float32)
    moves = []
    for model, rate in ((plain, 1e-4), (faster, 1e-6)):
        before = model.transitions.detach().clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=1e-20)
        model.nll(emissions, gold, mask).sum().backward()
        optimizer.step()
        moves.append(model.transitions.detach() - before)
    torch.testing.assert_close(moves[0], moves[1], rtol=2e-2, atol=1e-6)


def test_weights_are_loaded_and_numbers_out_of_range_refused():
    for make in (lambda: MEMM(4, rank=2, rate_multiplier=3.0), lambda: CRF(4, True, rate_multiplier=3.0)):
        first, second = make(), make()
        second.load_state_dict(first.state_dict())
        assert second.transitions.equal(first.transitions)
    for rank in (0, 5):
        with pytest.raises(ValueError, match=rf"rank: {rank} is not in 1\.\.4"):
            MEMM(4, rank=rank)
    with pytest.raises(ValueError, match="rate_multiplier"):
        MEMM(4, rank=2, rate_multiplier=0.0)
    with pytest.raises(ValueError, match="row 1 has no label"):
        MEMM(2).nll(torch.zeros(2, 1, 2), torch.zeros(2, 1), torch.tensor([[1], [0]]))
