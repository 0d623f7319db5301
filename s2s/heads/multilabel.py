"""Losses for several labels at once that balance positives and negatives by themselves.

Each compares scores with each other or with the threshold 0, never one label in isolation: L labels, of which few are
positive, need no class weights and no tuned threshold. Source: ZLPR (Su et al. 2022, arXiv 2208.02955), and the
articles that it grew from, spaces.ac.cn 7359 (hard labels) and 9064 (soft labels).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from s2s.errors import nearest
from s2s.heads.chains.chain import NOTHING, log_sum
from s2s.losses.terms import at_least_float32

Reduction = Literal["mean", "sum", "none"]


def zlpr_loss(scores: Tensor, targets: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Compute the zero-bounded log-sum-exp and pairwise rank-based loss: positives above 0, negatives below it.

    log(1 + sum_i t_i e^(-s_i)) + log(1 + sum_i (1 - t_i) e^(s_i)), which is smallest at t = sigmoid(2 s)
    (spaces.ac.cn 9064; with hard targets arXiv 2208.02955). At least 0, and with hard targets at most the summed binary
    cross-entropy of the same scores.

    scores and targets [..., L]; targets hard (bool or 0/1) or soft in [0, 1] (anything else gives nan); mask: bool,
    True where a label counts, broadcast to the scores. A row whose mask is False everywhere has loss 0 and counts in
    the mean. Computed and returned in float32 (float64 for float64 scores), [...] for ``reduction="none"``.
    """
    negatives, positives = exponents(scores, targets, mask)
    return reduce(_log_one_plus_sum(negatives) + _log_one_plus_sum(positives), reduction)


def zlpr_probabilities(scores: Tensor) -> Tensor:
    """Return label probabilities under scores [..., L] that ``zlpr_loss`` trained: sigmoid(2 s), not sigmoid(s)."""
    return (2 * at_least_float32(scores)).sigmoid()


def sparse_zlpr_loss(scores: Tensor, positives: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Compute ``zlpr_loss`` for hard targets given as indices, for many labels of which few are positive.

    scores [..., L]; positives [..., P]: indices of the positive labels, a set in any order, padded with -1. A score of
    -inf excludes a negative label.
    """
    scores = at_least_float32(scores)
    ordered = positives.sort(dim=-1).values
    repeated = functional.pad(ordered[..., 1:] == ordered[..., :-1], (1, 0))
    padding = repeated | (ordered == -1)
    at_positives = (-scores.gather(-1, ordered.masked_fill(padding, 0))).masked_fill(padding, NOTHING)
    # The positives are taken out of the sum over negatives before it is formed. Subtracting them from the sum of all
    # labels would cancel all digits where they dominate it. Column 0 takes what padding writes, then is the threshold.
    columns = functional.pad(scores, (1, 0)).scatter(-1, ordered.masked_fill(padding, -1) + 1, NOTHING)
    negatives = torch.cat([torch.zeros_like(columns[..., :1]), columns[..., 1:]], dim=-1)
    return reduce(log_sum(negatives) + _log_one_plus_sum(at_positives), reduction)


def pairwise_loss(scores: Tensor, targets: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Rank every positive above every negative, without a threshold: cross-entropy where one label is positive.

    Arguments as for ``zlpr_loss``. log(1 + sum_(i, j) (1 - t_i) t_j e^(s_i - s_j)) (spaces.ac.cn 7359; equation 1 of
    Circle loss, arXiv 2002.10857, without margin and scale). 0 without any positive, or any negative.
    """
    negatives, positives, _ = centred_exponents(scores, targets, mask)
    pairs = log_sum(negatives) + log_sum(positives)
    return reduce(torch.logaddexp(pairs, torch.zeros_like(pairs)), reduction)


def exponents(scores: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each label's exponent as a negative, s + log(1 - t), and as a positive, -s + log t, [..., L] each.

    ``NOTHING`` where the weight is zero or the mask False: there neither value nor gradient of the score matters.
    """
    if scores.shape != targets.shape:
        raise ValueError(f"scores {list(scores.shape)} and targets {list(targets.shape)} differ in shape")
    # In float16 ``NOTHING`` would be infinite, as the 1e12 of the article's code is, and its differences nan.
    scores, targets = at_least_float32(scores), at_least_float32(targets)
    excluded = torch.zeros_like(targets, dtype=torch.bool) if mask is None else ~mask.bool().expand_as(targets)
    return _weighted(scores, 1 - targets, excluded), _weighted(-scores, targets, excluded)


def centred_exponents(scores: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the exponents of scores less c, and c [...], midway between the highest negative and the lowest positive.

    A comparison of negatives with positives does not depend on c; this one leaves nothing large to cancel. The
    exponents are [..., L + 1], the last one ``NOTHING``, so that a row has a largest exponent even if L is 0.
    """
    # The centre is a constant: its gradient would cancel in every comparison.
    pair = exponents(scores, targets, mask)
    negatives, positives = (functional.pad(side, (0, 1), value=NOTHING) for side in pair)
    highest, lowest = negatives.detach().amax(dim=-1), -positives.detach().amax(dim=-1)
    has_both = (highest > NOTHING / 2) & (lowest < -NOTHING / 2)
    centre = torch.where(has_both, (highest + lowest) / 2, 0.0)
    return _moved(negatives, -centre), _moved(positives, centre), centre


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean, the sum or all of the losses [...]."""
    choices: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum, "none": torch.clone}
    if reduction not in choices:
        raise ValueError(f"reduction: '{reduction}' is none{nearest(str(reduction), choices)}")
    return choices[reduction](losses)


def _weighted(terms: Tensor, weights: Tensor, excluded: Tensor) -> Tensor:
    excluded = excluded | (weights == 0)
    return (terms + weights.masked_fill(excluded, 1.0).log()).masked_fill(excluded, NOTHING)


def _moved(terms: Tensor, shift: Tensor) -> Tensor:
    return torch.where(terms < NOTHING / 2, NOTHING, terms + shift[..., None])


def _log_one_plus_sum(terms: Tensor) -> Tensor:
    """Return log(1 + sum_i e^terms_i) over the last dimension, which may be empty."""
    return log_sum(functional.pad(terms, (0, 1)))
