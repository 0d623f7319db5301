"""Exact sums over all label sequences of a linear chain, by one loop over the columns.

A chain scores a sequence y of n labels with starts(y_1) + sum_t emissions_t(y_t) + sum_t transitions(y_(t-1), y_t) +
ends(y_n). Seen from its end it is a Markov chain: with the weight of everything behind a column absorbed into the
column's emissions h, p(y_1) = softmax(starts + h_1) and p(y_t | y_(t-1)) = softmax(transitions(y_(t-1), .) + h_t).
That is a MEMM's form; the two models differ by what is absorbed.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.heads.logspace import NOTHING, LogMatrix, log_sum


class Chain(NamedTuple):
    """The scores of B chains over L labels, in float32 or float64; ``NOTHING`` forbids."""

    emissions: Tensor  # [B, T, L], 0 at padding
    transitions: Tensor  # [L, L], from, to
    starts: Tensor  # [L]
    ends: Tensor  # [L]
    mask: Tensor  # [B, T], True at the labels of a row, which stand on the left


def absorbed(chain: Chain) -> tuple[Tensor, Tensor]:
    """The emissions h [B, T, L] that have absorbed what follows, each column up to a constant, and the constants' sum.

    h_n = emissions_n + ends; h_t(i) = emissions_t(i) + log sum_j e^(transitions(i, j) + h_(t+1)(j)) - c_t. The c_t
    keep h small, so that float32 has digits left for the differences between labels. ValueError names a row for whose
    length no sequence is allowed.
    """
    behind, mask = LogMatrix(chain.transitions), chain.mask[..., None]
    emissions = chain.emissions.unbind(dim=1)  # one gradient of [B, T, L] in all, where indexing makes one a column
    columns = [emissions[-1] + chain.ends]
    constants = torch.zeros_like(emissions[0][:, :1])
    for column in reversed(range(len(emissions) - 1)):
        following = behind(columns[-1])
        constant = following.detach().amax(dim=-1, keepdim=True)
        is_inside = mask[:, column + 1]
        columns.append(emissions[column] + torch.where(is_inside, following - constant, chain.ends))
        constants = constants + constant.masked_fill(~is_inside, 0.0)
    check_possible((chain.starts + columns[-1]).amax(dim=-1) + constants[:, 0], chain.mask)
    return torch.stack(columns[::-1], dim=1), constants[:, 0]


def check_possible(best: Tensor, mask: Tensor) -> None:
    """ValueError names the first row whose best score [B] is that of nothing."""
    missing = best < NOTHING / 2
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        raise ValueError(f"row {row}: no sequence of {int(mask[row].sum())} labels is allowed")


def log_partition(chain: Chain) -> Tensor:
    """The logarithm [B] of the sum of e^score over all sequences of a row's length."""
    emissions, constants = absorbed(chain)
    return log_sum(chain.starts + emissions[:, 0]) + constants


def marginals(chain: Chain) -> Tensor:
    """The probability [B, T, L] of each label at each column, all others summed out; 0 at padding."""
    emissions, _ = absorbed(chain)
    first, *later = emissions.unbind(dim=1)
    normalisers = LogMatrix(chain.transitions)(emissions[:, 1:])  # of p(y_t | y_(t-1))
    normalisers = normalisers.clamp(min=NOTHING / 2)  # a label that leads nowhere stays unlikely when divided by this
    onward = LogMatrix(chain.transitions.t())
    columns = [(chain.starts + first).log_softmax(dim=-1)]
    for column, normaliser in zip(later, normalisers.unbind(dim=1), strict=True):
        columns.append((onward(columns[-1] - normaliser) + column).log_softmax(dim=-1))
    return torch.stack(columns, dim=1).exp() * chain.mask[..., None]


def path_scores(chain: Chain, paths: Tensor) -> Tensor:
    """The scores [B, K] of K label sequences of each row, [B, K, T], with any valid labels at padding."""
    mask = chain.mask[:, None]
    emissions = chain.emissions[:, None].expand(-1, paths.shape[1], -1, -1)
    at_columns = emissions.gather(-1, paths[..., None])[..., 0]
    between = chain.transitions[paths[..., :-1], paths[..., 1:]].masked_fill(~mask[..., 1:], 0.0)
    last = paths.gather(-1, (mask.sum(dim=-1, keepdim=True) - 1).expand(-1, paths.shape[1], -1))[..., 0]
    return at_columns.sum(dim=-1) + between.sum(dim=-1) + chain.starts[paths[..., 0]] + chain.ends[last]


def local_nll(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The cross-entropies of logits [B, T, L] at labels [B, T], summed over each row's columns: [B]."""
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).masked_fill(~mask, 0.0).sum(dim=1)
