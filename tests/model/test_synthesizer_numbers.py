"""The arithmetic of synthesised attention: scores far apart, and second derivatives."""

import pytest
import torch
from slotted import WIDTH, attention_of, drawn

from s2s.model.attention import Slots
from s2s.model.synthesizer import FARTHEST, shared_weighted


@pytest.mark.parametrize("reach", [1.0, FARTHEST / 2, FARTHEST, 1e4])
def test_scores_far_apart_give_a_softmax(reach):
    table, values = reach * (2 * torch.rand(1, 4, 6, dtype=torch.float64) - 1), drawn(1, 3, 1, 6, 2)
    table.requires_grad_()
    columns = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    found = shared_weighted(table, columns, None, values)
    expected = table.masked_fill(~columns[:, None, None], -torch.inf).softmax(dim=-1) @ values
    (gradient,) = torch.autograd.grad((found * drawn(2, *found.shape)).sum(), table)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(found, expected)
    (wanted,) = torch.autograd.grad((expected * drawn(2, *found.shape)).sum(), table)
    torch.testing.assert_close(gradient, wanted)


def one_by_one(scores, columns, pairs, values):
    """Each example by itself, each row a softmax over the columns that it has and may see."""
    found = torch.zeros(len(values), *scores.shape[:2], values.shape[-1], dtype=torch.float64)
    for example, has in enumerate(columns.expand(len(values), -1)):
        for head in range(scores.shape[0]):
            for row in range(scores.shape[1]):
                sees = [c for c in range(scores.shape[2]) if has[c] and (pairs is None or pairs[row, c])]
                weights = scores[head, row, sees].double().softmax(dim=0)
                found[example, head, row] = weights @ values[example, head, sees].double()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [5.0, 59.0, 61.0, 500.0, 1e30])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_the_greatest_score_of_a_column_that_an_example_lacks_does_not_enter_its_weights(
    dtype, missing, together, causal
):
    """Alone, where no example has that column, and in a batch with one that has it."""
    scores = torch.tensor([[[0.0, 1.0, -2.0, missing, missing]]]).expand(2, 3, 5).to(dtype).contiguous()
    columns = torch.tensor([[True, True, False, False, True], [True, True, True, True, True]])[: 1 + together]
    columns[:, -1] = not causal if together else False
    pairs = torch.ones(3, 5, dtype=torch.bool).tril(2) if causal else None
    values = drawn(1, len(columns), 2, 5, 4).to(dtype)
    scores.requires_grad_()
    found = shared_weighted(scores, columns, pairs, values)
    expected = one_by_one(scores, columns, pairs, values)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    push = drawn(2, *found.shape)
    (gradient,), (wanted,) = (torch.autograd.grad((each * push.to(each.dtype)).sum(), scores, retain_graph=True)
                              for each in (found, expected))  # fmt: skip
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_in_float16_scores_that_only_float32_holds_are_not_shared():
    scores, columns = torch.tensor([[[0.0, 1.0, 20.0]]]), torch.tensor([[True, True, False], [True, True, True]])
    values = drawn(1, 2, 1, 3, 4).float()
    with torch.autocast("cpu", torch.float16):
        found = shared_weighted(scores, columns, None, values)
    torch.testing.assert_close(found.double(), one_by_one(scores, columns, None, values), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["random", "dense", "factorized_dense", "dot+factorized_random"])
def test_second_derivatives_are_those_of_finite_differences(name):
    attention = attention_of(name)
    mask = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda x: attention(x, mask, None, Slots(0, 3))[0], drawn(0, 1, 3, WIDTH).requires_grad_()
    )
