"""Softmax over sets of labels: cross-entropy whose classes are all subsets of a size (spaces.ac.cn 7359).

A set's score is the sum of its labels' scores, so the normaliser over the sets of size k is the elementary symmetric
polynomial e_k of the exponentials. Newton's identities for it alternate in sign and lose all digits in float32; here
it is a sum of positive terms in log space. It is computed in float64, because a set's score sums many labels' scores
and only differences between sets count.
"""

import torch
from torch import Tensor

from s2s.heads.chains.chain import NOTHING, log_sum
from s2s.heads.multilabel import Reduction, centred_exponents, reduce
from s2s.losses.terms import at_least_float32


def log_symmetric_polynomials(scores: Tensor, size: int) -> Tensor:
    """Return the logarithms of e_0, ..., e_size of e^scores: [..., L] -> [..., size + 1], in float64.

    e_m is the sum over all sets of m labels of e^(sum of their scores); where there are fewer than m labels it is 0,
    and its logarithm is at most ``NOTHING``. A score of ``NOTHING`` excludes a label.
    """
    scores = scores.double()
    # Step m sums over the last label i of a set: a set of m labels is a set of m - 1 labels before i, and i itself.
    before = torch.zeros_like(scores)  # log e_(m-1) of the labels before each label
    polynomials = [torch.zeros_like(scores[..., 0])]
    for _ in range(size):
        through = (scores + before).logcumsumexp(dim=-1)
        polynomials.append(through[..., -1])
        before = torch.cat([torch.full_like(through[..., :1], NOTHING), through[..., :-1]], dim=-1)
    return torch.stack(polynomials, dim=-1)


def subset_softmax_loss(
    scores: Tensor, targets: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the cross-entropy over all sets of k labels, k the number of the row's positives; of labels at k = 1.

    scores [..., L], hard targets [..., L], mask and reduction as for ``zlpr_loss``. log Z_k - sum of the positives'
    scores, Z_k = e_k(e^s). A prediction needs k: it is the k highest scores.

    It is summed by which labels a set exchanges: sum_m e_m(negatives' e^s) e_m(positives' e^-s), whose first term is 1.
    So it is never below 0, and exact where the positives are far above. With m <= 1 alone it is ``pairwise_loss``.
    """
    negatives, positives, _ = _hard_exponents(scores, targets, mask)
    size = max(1, int((positives > NOTHING / 2).sum(dim=-1).max()))
    swaps = log_symmetric_polynomials(negatives, size) + log_symmetric_polynomials(positives, size)
    return reduce(log_sum(swaps).to(at_least_float32(scores).dtype), reduction)


def thresholded_subset_softmax_loss(
    scores: Tensor,
    targets: Tensor,
    largest: int,
    threshold: Tensor | float = 0.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the cross-entropy over all sets of at most ``largest`` labels; each unused one scores the threshold.

    scores [..., L], hard targets [..., L]; threshold: a score, or scores [...] that may be learned. The normaliser is
    sum_(m <= K) e^((K - m) s_0) e_m(e^s), K = ``largest``: the article's Z'_K = e_K + e^(s_0) Z'_(K-1) unrolled. A
    prediction is the labels above the threshold, the K highest of them. With K = L it is the summed binary
    cross-entropy of s - s_0. Errors: a ValueError where a row has more than ``largest`` positives.
    """
    if largest < 1:
        raise ValueError(f"largest: {largest} is below 1")
    negatives, positives, centre = _hard_exponents(scores, targets, mask)
    counts = (positives > NOTHING / 2).sum(dim=-1)
    if bool((counts > largest).any()):
        raise ValueError(f"a row has {int(counts.max())} positives, more than largest={largest}")
    added = log_symmetric_polynomials(negatives, largest)[..., :, None]
    removed = log_symmetric_polynomials(positives, largest)[..., None, :]
    steps = torch.arange(largest + 1, device=scores.device)
    growth = steps[:, None] - steps
    swaps = added + removed + growth * (centre - threshold)[..., None, None]
    swaps = swaps.masked_fill(growth > (largest - counts)[..., None, None], NOTHING)
    return reduce(log_sum(swaps.flatten(-2)).to(at_least_float32(scores).dtype), reduction)


def _hard_exponents(scores: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``centred_exponents`` in float64. Errors: a ValueError unless each target that counts is 0 or 1."""
    soft = (targets != 0) & (targets != 1)
    if bool((soft if mask is None else soft & mask.bool()).any()):
        raise ValueError("targets: the sets of a subset softmax are hard, each target 0 or 1")
    return centred_exponents(scores.double(), targets, mask)
