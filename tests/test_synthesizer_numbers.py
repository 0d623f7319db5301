"""The arithmetic of synthesised attention: scores far apart, and second derivatives."""

import pytest
import torch
from slotted import WIDTH, attention_of, drawn

from s2s.model.slots import Slots
from s2s.model.synthesizer import FARTHEST, shared_weighted


@pytest.mark.parametrize("reach", [1.0, FARTHEST / 2, 1e4])
def test_scores_far_apart_give_a_softmax_or_at_least_numbers(reach):
    table, values = reach * (2 * torch.rand(1, 4, 6, dtype=torch.float64) - 1), drawn(1, 3, 1, 6, 2)
    table.requires_grad_()
    columns = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    found = shared_weighted(table, columns, None, values)
    expected = table.masked_fill(~columns[:, None, None], -torch.inf).softmax(dim=-1) @ values
    (gradient,) = torch.autograd.grad((found * drawn(2, *found.shape)).sum(), table)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    if reach <= FARTHEST / 2:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["random", "dense", "factorized_dense", "dot+factorized_random"])
def test_second_derivatives_are_those_of_finite_differences(name):
    attention = attention_of(name)
    mask = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda x: attention(x, mask, None, Slots(0, 3))[0], drawn(0, 1, 3, WIDTH).requires_grad_()
    )
