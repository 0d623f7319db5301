"""The divergences over the vocabulary against the same of all scores at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from s2s.losses.divergence_loss import Shares, divergence_loss, from_constant, paired_loss
from s2s.losses.terms import divergences
from s2s.losses.vocabulary_loss import ROWS
from s2s.mitigations.distillation import DIVERGENCES
from s2s.model.output_rows import OutputRows

pytestmark = pytest.mark.usefixtures("tables")
few = settings(deadline=None, max_examples=20)


def outputs(rows: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> OutputRows:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, width), (11, width), (11,)]
    return OutputRows(*(torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes))


def at_once(student: OutputRows, teachers: list[OutputRows], weights: Tensor, name: str, heat: float) -> Tensor:
    """Probabilities and their logarithms of everything, and the formulas as papers print them."""
    p = torch.stack([functional.linear(*teacher).div(heat).softmax(dim=-1) for teacher in teachers]).mean(dim=0)
    q = functional.linear(*student).div(heat).softmax(dim=-1)
    mixed = 0.3 * p + 0.7 * q
    formulas = {
        "forward_kl": p * (p / q).log(),
        "reverse_kl": q * (q / p).log(),
        "jsd": 0.3 * p * (p / mixed).log() + 0.7 * q * (q / mixed).log(),
    }
    return heat**2 * (weights * formulas[name].sum(dim=-1)).sum()


@pytest.mark.parametrize("name", DIVERGENCES)
@given(
    rows=st.sampled_from([0, 1, 7, ROWS, ROWS + 1, 2 * ROWS + 3]),
    seed=st.integers(0, 99),
    heat=st.sampled_from([0.5, 1.0, 3.0]),
    widths=st.lists(st.sampled_from([3, 5]), min_size=1, max_size=3),
    factor=st.floats(-2, 2),
)
@few
def test_it_is_the_divergence_of_all_scores(
    name: str, rows: int, seed: int, heat: float, widths: list[int], factor: float
) -> None:
    student = OutputRows(*(part.requires_grad_() for part in outputs(rows, 4, seed)))
    teachers = [outputs(rows, width, seed + 1 + number) for number, width in enumerate(widths)]
    weights = torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = divergence_loss(student, teachers, weights, lambda p, q: DIVERGENCES[name](p, q, 0.3), temperature=heat)
    expected = at_once(student, teachers, weights, name, heat)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-12)
    found = torch.autograd.grad(factor * loss, student)
    for ours, theirs in zip(found, torch.autograd.grad(factor * expected, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@given(
    rows=st.sampled_from([0, 1, 7, ROWS + 3]),
    seed=st.integers(0, 99),
    shares=st.tuples(st.floats(-1, 1), st.sampled_from([0.0, 0.5]), st.floats(0, 2)),
    smoothing=st.sampled_from([0.0, 0.3]),
    one_way=st.booleans(),
    frozen=st.booleans(),
)
@few
def test_two_views_have_the_loss_of_all_scores(
    rows: int, seed: int, shares: tuple[float, float, float], smoothing: float, one_way: bool, frozen: bool
) -> None:
    hidden, weight, bias = outputs(2 * rows, 4, seed)
    output = OutputRows(hidden.requires_grad_(), weight.requires_grad_(not frozen), bias.requires_grad_(not frozen))
    labels = torch.randint(11, (rows,), generator=torch.Generator().manual_seed(seed)).repeat(2)
    apart = from_constant if one_way else divergences
    loss, penalty, nll = paired_loss(output, labels, Shares(*shares), smoothing, apart)
    scores = functional.linear(*output)
    entropies = functional.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
    p, q = scores[:rows].softmax(dim=-1), scores[rows:].softmax(dim=-1)
    constant = p.detach() if one_way else p
    divergence = (constant * (constant / q).log()).sum() + (0 if one_way else (q * (q / p).log()).sum())
    expected = shares[0] * entropies[:rows].sum() + shares[1] * entropies[rows:].sum() + shares[2] * divergence
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(penalty, (shares[2] * divergence).detach(), rtol=1e-10, atol=1e-11)
    unsmoothed = functional.cross_entropy(scores[:rows], labels[:rows], reduction="sum")
    torch.testing.assert_close(nll, unsmoothed.detach(), rtol=1e-11, atol=1e-11)
    wanted = [part for part in output if part.requires_grad]
    for ours, theirs in zip(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_without_gradients_none_are_computed_and_the_loss_is_the_same() -> None:
    parts, teacher, weights = outputs(5, 4, 0), outputs(5, 3, 1), torch.ones(5, dtype=torch.float64)
    losses = []
    for wanted in (True, False):
        student = OutputRows(*(part.clone().requires_grad_(wanted) for part in parts))
        losses.append(divergence_loss(student, [teacher], weights, lambda p, q: DIVERGENCES["jsd"](p, q, 0.5), 2.0))
    assert losses[0].requires_grad
    assert not losses[1].requires_grad
    assert torch.equal(*losses)


def test_under_autocast_products_are_in_half_precision_and_sums_are_not() -> None:
    student = OutputRows(*(part.requires_grad_() for part in outputs(ROWS + 9, 4, 0, torch.float32)))
    teacher, weights = outputs(ROWS + 9, 4, 1, torch.float32), torch.ones(ROWS + 9)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = divergence_loss(student, [teacher], weights, lambda p, q: DIVERGENCES["forward_kl"](p, q, 0.5), 1.0)
        results.append((loss, *torch.autograd.grad(loss, student)))
    for rounded, exact in zip(results[1], results[0], strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()
