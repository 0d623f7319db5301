"""The CRF's likelihood in scaled exponentials against the one in log space, and when it gives way to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import CRF, bmes_constraints
from s2s.heads.chains import likelihood

few = settings(deadline=None, max_examples=15)


def drawn(seed: int, labels: int, lengths: list[int], scale: float, dtype: torch.dtype, **keys: object):
    generator = torch.Generator().manual_seed(seed)
    crf = CRF(labels, **keys).to(dtype)
    for parameter in crf.parameters():
        parameter.data.normal_(0, scale, generator=generator)
    emissions = torch.randn(len(lengths), max(lengths), labels, generator=generator, dtype=dtype) * scale
    gold = torch.randint(labels, emissions.shape[:2], generator=generator)
    return crf, emissions, gold, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def found(crf: CRF, emissions: torch.Tensor, gold: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Losses and all gradients, the rows weighted."""
    emissions = emissions.clone().requires_grad_()
    losses = crf.nll(emissions, gold, mask)
    crf.zero_grad()
    (losses * torch.arange(1, len(losses) + 1)).sum().backward()
    return [losses.detach(), emissions.grad, *(parameter.grad.clone() for parameter in crf.parameters())]


@given(seed=st.integers(0, 999), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), edges=st.booleans())
@few
def test_both_ways_agree(seed: int, lengths: list[int], edges: bool) -> None:
    setting = drawn(seed, 5, lengths, 1.5, torch.float64, boundaries=edges)
    fast = found(*setting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "_safe_losses", lambda *_: None)
        slow = found(*setting)
    for one_way, other_way in zip(fast, slow, strict=True):
        torch.testing.assert_close(one_way, other_way, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("constrained", [False, True])
def test_long_padding_leaves_gradients_as_they_are(constrained: bool) -> None:
    constraints = bmes_constraints(["B", "M", "E", "S", *[f"S-{kind}" for kind in range(26)]]) if constrained else None
    crf, emissions, _, mask = drawn(3, 30, [150, 3, 1], 0.1, torch.float32, constraints=constraints)
    gold = torch.tensor([0, 1, 2, 3, 7] * 30).expand(3, -1).clone()
    gold[1:, 0], gold[1, 1:3] = 3, torch.tensor([0, 2])
    whole = found(crf, emissions, gold, mask)
    assert all(tensor.isfinite().all() for tensor in whole)
    for row, length in enumerate([150, 3, 1]):
        alone = found(crf, *(tensor_of_row[row : row + 1, :length] for tensor_of_row in (emissions, gold, mask)))
        torch.testing.assert_close(whole[1][row, :length], (row + 1) * alone[1][0], rtol=1e-4, atol=1e-5)
        assert not whole[1][row, length:].any()


@pytest.mark.parametrize("large", [60.0, 1e4])
def test_large_scores_go_through_log_space_in_float32(large: float, monkeypatch: pytest.MonkeyPatch) -> None:
    crf, emissions, gold, mask = drawn(0, 4, [7, 3], 1.0, torch.float32)
    crf.transitions.data.masked_fill_(crf.transitions.data < 0, -large)
    exact = CRF(4).double()
    exact.transitions.data.copy_(crf.transitions.data)
    calls = []
    slow = likelihood.log_space_nll
    monkeypatch.setattr(likelihood, "log_space_nll", lambda *given: calls.append(1) or slow(*given))
    results = found(crf, emissions, gold, mask)
    assert calls
    for result, reference in zip(results, found(exact, emissions.double(), gold, mask), strict=True):
        torch.testing.assert_close(result.double(), reference, rtol=2e-5, atol=2e-5)


def test_a_move_and_a_message_that_underflow_together_lose_nothing() -> None:
    crf = CRF(2)
    crf.transitions.data.copy_(torch.tensor([[0.0, -57.0], [0.0, -57.0]]))  # e^-57 is 1.7e-25, its square no float32
    emissions, gold, mask = torch.tensor([[[0.0, 0.0], [0.0, -57.0], [0.0, 0.0]]]), torch.tensor([[0, 1, 0]]), [[1] * 3]
    losses = crf.nll(emissions, gold, torch.tensor(mask))
    torch.testing.assert_close(losses.double(), crf.double().nll(emissions.double(), gold, torch.tensor(mask)))


def test_ordinary_scores_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "log_space_nll", None)
    found(*drawn(1, 32, [40, 20, 1], 2.0, torch.float32, boundaries=True))
    crf, emissions, _, mask = drawn(2, 4, [6, 4], 2.0, torch.float32, constraints=bmes_constraints("BMES"))
    gold = torch.tensor([[0, 1, 2, 3, 0, 2], [3, 0, 2, 3, 0, 0]])
    found(crf, emissions, gold, mask)
