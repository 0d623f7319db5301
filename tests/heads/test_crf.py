"""The CRF against the enumeration of all label sequences."""

import pytest
import torch
from enumerated_chains import Enumerated, crf_score, random_chains, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.heads import CRF

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)
LABELS, SEEDS = st.integers(1, 4), st.integers(0, 1000)
few = settings(deadline=None, max_examples=20)


def drawn(lengths, labels, seed, boundaries=False):
    return randomise(CRF(labels, boundaries=boundaries), seed), *random_chains(lengths, labels, seed + 1)


def enumerated(crf, emissions, mask):
    """A reference a row."""
    lengths = mask.sum(dim=1).tolist()
    return [
        Enumerated(crf_score(emissions[row], crf.transitions, crf.starts, crf.ends), crf.num_labels, length)
        for row, length in enumerate(lengths)
    ]


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, boundaries=st.booleans())
@few
def test_the_partition_sums_over_all_sequences(lengths, labels, seed, boundaries):
    crf, emissions, _, mask = drawn(lengths, labels, seed, boundaries)
    expected = [row.log_partition for row in enumerated(crf, emissions, mask)]
    torch.testing.assert_close(crf.log_partition(emissions, mask).tolist(), expected)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, boundaries=st.booleans())
@few
def test_marginals_sum_the_probabilities_of_sequences(lengths, labels, seed, boundaries):
    crf, emissions, _, mask = drawn(lengths, labels, seed, boundaries)
    expected = torch.stack([row.marginals(mask.shape[1]) for row in enumerated(crf, emissions, mask)])
    torch.testing.assert_close(crf.marginals(emissions, mask), expected)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, boundaries=st.booleans())
@few
def test_the_nll_is_minus_the_log_of_the_gold_sequence_s_share(lengths, labels, seed, boundaries):
    crf, emissions, gold, mask = drawn(lengths, labels, seed, boundaries)
    paths = [tuple(row[inside].tolist()) for row, inside in zip(gold, mask, strict=True)]
    rows = enumerated(crf, emissions, mask)
    expected = [row.log_partition - row.scores[path] for row, path in zip(rows, paths, strict=True)]
    losses = crf.nll(emissions, gold, mask)
    torch.testing.assert_close(losses.tolist(), expected)
    assert (losses >= 0).all()


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, boundaries=st.booleans(), k=st.integers(1, 9))
@few
def test_the_k_best_are_the_first_k_of_all(lengths, labels, seed, boundaries, k):
    crf, emissions, _, mask = drawn(lengths, labels, seed, boundaries)
    paths, scores = crf.k_best(emissions, mask, k)
    for row, reference in enumerate(enumerated(crf, emissions, mask)):
        best = list(reference.scores.items())[:k]
        for rank, (path, score) in enumerate(best):
            padding = [-100] * (mask.shape[1] - len(path))
            assert paths[row, rank].tolist() == [*path, *padding]
            torch.testing.assert_close(scores[row, rank].item(), score)
        assert (paths[row, len(best) :] == -100).all()
        assert (scores[row, len(best) :] == -torch.inf).all()
    first, first_score = crf.viterbi(emissions, mask)
    assert first.equal(paths[:, 0])
    assert first_score.equal(scores[:, 0])


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS)
@few
def test_the_partition_s_gradients_are_expected_counts(lengths, labels, seed):
    crf, emissions, _, mask = drawn([*lengths, 2], labels, seed, boundaries=True)
    emissions.requires_grad_()
    rows = enumerated(crf, emissions.detach(), mask)
    crf.log_partition(emissions, mask).sum().backward()
    marginals = torch.stack([row.marginals(mask.shape[1]) for row in rows])
    torch.testing.assert_close(emissions.grad, marginals)
    torch.testing.assert_close(crf.transitions.grad, sum(row.pairs() for row in rows))
    torch.testing.assert_close(crf.starts.grad, marginals[:, 0].sum(dim=0))
    last = marginals[torch.arange(len(mask)), mask.sum(dim=1) - 1]
    torch.testing.assert_close(crf.ends.grad, last.sum(dim=0))


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS)
@few
def test_the_nll_s_gradient_is_marginals_minus_gold(lengths, labels, seed):
    crf, emissions, gold, mask = drawn(lengths, labels, seed)
    emissions.requires_grad_()
    crf.nll(emissions, gold, mask).sum().backward()
    one_hot = torch.nn.functional.one_hot(gold.clamp(min=0), labels) * mask[..., None]
    torch.testing.assert_close(emissions.grad, crf.marginals(emissions, mask).detach() - one_hot)


def test_second_derivatives_are_finite_differences():
    crf, emissions, gold, mask = drawn([3, 2], 3, 0, boundaries=True)
    emissions = emissions.nan_to_num().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda scores: crf.nll(scores, gold, mask), emissions)
    assert torch.autograd.gradcheck(lambda scores: crf.marginals(scores, mask), emissions)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS)
@few
def test_without_transitions_each_label_stands_alone(lengths, labels, seed):
    crf, emissions, gold, mask = drawn(lengths, labels, seed)
    torch.nn.init.zeros_(crf.transitions)
    alone = torch.nn.functional.cross_entropy(emissions.transpose(1, 2), gold, reduction="none")
    torch.testing.assert_close(crf.nll(emissions, gold, mask), alone.sum(dim=1))
    best = emissions.nan_to_num().argmax(dim=-1).masked_fill(~mask, -100)
    assert crf.viterbi(emissions, mask)[0].equal(best)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, shift=st.floats(-50, 50))
@few
def test_a_constant_at_a_column_changes_no_probability(lengths, labels, seed, shift):
    crf, emissions, gold, mask = drawn(lengths, labels, seed)
    moved = emissions.clone()
    moved[:, 0] += shift
    torch.testing.assert_close(crf.nll(moved, gold, mask), crf.nll(emissions, gold, mask))
    torch.testing.assert_close(crf.log_partition(moved, mask), crf.log_partition(emissions, mask) + shift)


@given(lengths=LENGTHS, labels=LABELS, seed=SEEDS, extra=st.integers(1, 3))
@few
def test_more_padding_changes_nothing(lengths, labels, seed, extra):
    crf, emissions, gold, mask = drawn(lengths, labels, seed)
    wide = [torch.nn.functional.pad(emissions, (0, 0, 0, extra), value=torch.inf)]
    wide += [torch.nn.functional.pad(gold, (0, extra), value=7), torch.nn.functional.pad(mask, (0, extra))]
    assert crf.nll(*wide).equal(crf.nll(emissions, gold, mask))
    wide_emissions, _, wide_mask = wide
    assert crf.log_partition(wide_emissions, wide_mask).equal(crf.log_partition(emissions, mask))
    assert crf.marginals(wide_emissions, wide_mask)[:, :-extra].equal(crf.marginals(emissions, mask))
    assert crf.viterbi(wide_emissions, wide_mask)[0][:, :-extra].equal(crf.viterbi(emissions, mask)[0])


def test_padding_has_no_gradient():
    crf, emissions, gold, mask = drawn([1, 3], 3, 0)
    emissions.requires_grad_()
    crf.nll(emissions, gold, mask).sum().backward()
    assert not emissions.grad[~mask].any()
    assert emissions.grad[mask].isfinite().all()
    assert crf.transitions.grad.isfinite().all()


def test_a_batch_of_single_labels_reaches_every_parameter():
    crf, emissions, gold, mask = drawn([1, 1], 3, 0, boundaries=True)
    crf.nll(emissions, gold, mask).sum().backward()
    assert all(parameter.grad is not None for parameter in crf.parameters())
    assert not crf.transitions.grad.any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 0], [0, 0, 0]], "row 1 has no label"),
        ([[1, 1, 0], [1, 0, 1]], "row 1 has a hole"),
        ([[0, 1, 1], [1, 0, 0]], "row 0 has a hole"),
        ([[1, 1], [1, 0]], r"mask \[2, 2\] is not"),
    ],
)
def test_a_mask_that_is_no_right_padding_is_refused_by_row(mask, message):
    with pytest.raises(ValueError, match=message):
        CRF(2).log_partition(torch.zeros(2, 3, 2), torch.tensor(mask))


def test_what_is_no_label_is_refused_by_place():
    with pytest.raises(ValueError, match=r"labels\[0, 1\]: -100 is not in 0\.\.1"):
        CRF(2).nll(torch.zeros(1, 2, 2), torch.tensor([[0, -100]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"emissions \[1, 2, 3\] are not \[B, T, 2\]"):
        CRF(2).viterbi(torch.zeros(1, 2, 3), torch.ones(1, 2))
    with pytest.raises(ValueError, match="k: 0"):
        CRF(2).k_best(torch.zeros(1, 2, 2), torch.ones(1, 2), 0)
