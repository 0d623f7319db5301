"""Attention in bfloat16 on a processor: rounded no more than torch's own kernel, forward and backward."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from s2s.model.attention import softmax_attention

NARROW = torch.bfloat16


def inputs(seed: int) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values [3, 2, 9, 16], and the mask of targets behind padded sources."""
    torch.manual_seed(seed)
    mask = torch.full((9, 9), -torch.inf).triu(1).repeat(3, 1, 1, 1)
    mask[1, ..., :2] = -torch.inf
    mask[1, ..., :2, :2] = 0
    return list(2 * torch.randn(3, 3, 2, 9, 16)), mask


def results(parts: list[Tensor], mask: Tensor, dtype: torch.dtype, function: object) -> list[Tensor]:
    given = [part.to(NARROW).to(dtype).requires_grad_() for part in parts]
    found = function(*given, mask.to(dtype))  # type: ignore[operator]
    return [found, *torch.autograd.grad(found, given, parts[0].to(NARROW).to(dtype).flip(0))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("autocast", [False, True])
def test_errors_are_at_most_those_of_torch(seed: int, autocast: bool) -> None:
    parts, mask = inputs(seed)
    exact = results(parts, mask, torch.float64, scaled_dot_product_attention)
    theirs = results(parts, mask, NARROW, scaled_dot_product_attention)
    with torch.autocast("cpu", NARROW, enabled=autocast):
        ours = results(parts, mask, NARROW, softmax_attention)
    for mine, other, wanted in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == NARROW
        assert (mine - wanted).norm() <= 1.05 * (other - wanted).norm()
        assert (mine - wanted).norm() <= 5e-3 * wanted.norm()
