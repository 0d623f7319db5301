"""Exact sums over all label sequences of a linear chain, in log space, by one loop over the columns.

A chain scores a sequence y of n labels with starts(y_1) + sum_t emissions_t(y_t) + sum_t transitions(y_(t-1), y_t) +
ends(y_n). Read from its end it is a Markov chain: once the weight of everything after a column is absorbed into the
column's emissions h, p(y_1) = softmax(starts + h_1) and p(y_t | y_(t-1)) = softmax(transitions(y_(t-1), .) + h_t).
That is the form of a MEMM as well; a CRF and a MEMM differ only in what is absorbed.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

NOTHING = -1e30
"""The logarithm of zero. It is finite, so that no gradient meets infinity minus infinity."""

SAFE_SUM = 1e-26
"""The smallest sum of products of factors up to 1 that keeps all its digits when some terms fall below float32's
range: such a term is less than 1.2e-38, so even thousands of them are below the rounding of this sum."""


def log_sum(x: Tensor) -> Tensor:
    """Return the logsumexp over the last dimension, with a gradient that keeps its digits under large x."""
    # torch takes the gradient e^(x - logsumexp(x)) from the rounded result, which at 10,000 is off by 1e-4.
    largest = x.detach().amax(dim=-1, keepdim=True)
    return (x - largest).logsumexp(dim=-1) + largest[..., 0]


def without_autocast(x: Tensor) -> torch.autocast:
    """Return a context in which matrix products on the tensor's device keep their precision."""
    return torch.autocast(x.device.type, enabled=False)


class LogMatrix:
    """The product with a matrix of exponentials, in log space: x -> log sum_j e^(matrix[i, j] + x[j]).

    It is one matrix product of exponentials, each side scaled so that its largest is 1. Sums below ``SAFE_SUM``, such
    as those of forbidden transitions only, are computed a second time, by logsumexp.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.largest = matrix.detach().amax()
        self.factors = (matrix - self.largest).exp().t()

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [..., L] to [..., L]."""
        largest = x.detach().amax(dim=-1, keepdim=True)
        with without_autocast(x):
            sums = (x - largest).exp() @ self.factors
        unsafe = sums < SAFE_SUM
        *rows, column = unsafe.nonzero(as_tuple=True)
        if len(column) == 0:
            return sums.log() + (largest + self.largest)
        # The logarithm of a sum of 0 has an infinite gradient, which times the next line's 0 would be nan.
        logs = sums.masked_fill(unsafe, 1.0).log() + (largest + self.largest)
        return logs.masked_scatter(unsafe, log_sum(self.matrix[column] + x[tuple(rows)]))


class Chain(NamedTuple):
    """The scores of B chains over L labels, in float32 or float64; ``NOTHING`` forbids."""

    emissions: Tensor  # [B, T, L], 0 at padding
    transitions: Tensor  # [L, L], from, to
    starts: Tensor  # [L]
    ends: Tensor  # [L]
    mask: Tensor  # [B, T], True at the labels of a row; padding is on the right


def absorb_following(chain: Chain) -> tuple[Tensor, Tensor]:
    """Return emissions h [B, T, L] that have absorbed what follows, and the constants [B] taken out of them.

    h_n = emissions_n + ends; h_t(i) = emissions_t(i) + log sum_j e^(transitions(i, j) + h_(t+1)(j)) - c_t. Errors: a
    ValueError names a row for whose length no sequence is allowed.
    """
    sum_onward, mask = LogMatrix(chain.transitions), chain.mask[..., None]
    # unbind has one gradient of [B, T, L] in all; indexing would allocate one for every column.
    emissions = chain.emissions.unbind(dim=1)
    columns = [emissions[-1] + chain.ends]
    constants = torch.zeros_like(emissions[0][:, :1])
    for column in reversed(range(len(emissions) - 1)):
        following = sum_onward(columns[-1])
        # Without c_t, h would grow with the length and leave float32 no digits for the differences between labels.
        constant = following.detach().amax(dim=-1, keepdim=True)
        is_inside = mask[:, column + 1]
        columns.append(emissions[column] + torch.where(is_inside, following - constant, chain.ends))
        constants = constants + constant.masked_fill(~is_inside, 0.0)
    check_possible((chain.starts + columns[-1]).amax(dim=-1) + constants[:, 0], chain.mask)
    return torch.stack(columns[::-1], dim=1), constants[:, 0]


def check_possible(best: Tensor, mask: Tensor) -> None:
    """Raise a ValueError that names the first row whose best score [B] is that of a forbidden sequence."""
    # A sum with ``NOTHING`` in it is never exactly that.
    missing = best < NOTHING / 2
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        raise ValueError(f"row {row}: no sequence of {int(mask[row].sum())} labels is allowed")


def log_partition(chain: Chain) -> Tensor:
    """Return the logarithm [B] of the sum of e^score over all sequences of a row's length."""
    emissions, constants = absorb_following(chain)
    return log_sum(chain.starts + emissions[:, 0]) + constants


def marginals(chain: Chain) -> Tensor:
    """Return the probability [B, T, L] of each label at each column, all others summed out; 0 at padding."""
    emissions, _ = absorb_following(chain)
    first, *later = emissions.unbind(dim=1)
    normalisers = LogMatrix(chain.transitions)(emissions[:, 1:])  # of p(y_t | y_(t-1))
    # A label that leads nowhere has both weight and normaliser NOTHING; without the floor their ratio would be 1.
    normalisers = normalisers.clamp(min=NOTHING / 2)
    step = LogMatrix(chain.transitions.t())
    columns = [(chain.starts + first).log_softmax(dim=-1)]
    for column, normaliser in zip(later, normalisers.unbind(dim=1), strict=True):
        columns.append((step(columns[-1] - normaliser) + column).log_softmax(dim=-1))
    return torch.stack(columns, dim=1).exp() * chain.mask[..., None]


def path_scores(chain: Chain, paths: Tensor) -> Tensor:
    """Return the scores [B, K] of K label sequences of each row, [B, K, T], with any valid labels at padding."""
    mask = chain.mask[:, None]
    emissions = chain.emissions[:, None].expand(-1, paths.shape[1], -1, -1)
    at_columns = emissions.gather(-1, paths[..., None])[..., 0]
    between = chain.transitions[paths[..., :-1], paths[..., 1:]].masked_fill(~mask[..., 1:], 0.0)
    last = paths.gather(-1, (mask.sum(dim=-1, keepdim=True) - 1).expand(-1, paths.shape[1], -1))[..., 0]
    return at_columns.sum(dim=-1) + between.sum(dim=-1) + chain.starts[paths[..., 0]] + chain.ends[last]


def local_nll(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return the cross-entropies of logits [B, T, L] at labels [B, T], summed over each row's columns: [B]."""
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).masked_fill(~mask, 0.0).sum(dim=1)
