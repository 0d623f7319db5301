"""The likelihood of label sequences in a linear chain, in exponentials scaled a column at a time, and its gradients.

A sweep from the end computes messages v_t, the weight of each label with all that follows it. They are what
``chain.absorb_following`` computes, but not in log space: v_t = e^emissions_t * u_t with u_t = e^transitions v_(t+1),
each divided by its row's largest. Then p(y_1) = e^starts v_1 / their sum and
p(y_t | y_(t-1)) = e^transitions(y_(t-1), y_t) v_t(y_t) / u_(t-1)(y_(t-1)). The gradients are expected counts less
those of the labels (Lafferty et al. 2001), from a sweep in the other direction.

Where a sum falls below ``SAFE_SUM``, as under transitions of -60 or -10,000, ``chain_nll`` computes in log space.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.heads.chains.chain import SAFE_SUM, Chain, absorb_following, local_nll, without_autocast
from s2s.heads.chains.transitions import rows

SAFE_FACTOR = 1e-30
"""The smallest factor of a label sequence that float32 still holds in all its digits (its normal numbers end at
1.2e-38)."""


class Sweep(NamedTuple):
    """The messages v and sums u of a chain, columns first, and its transitions and starts as scaled exponentials."""

    messages: Tensor  # v, [T, B, L]
    sums: Tensor  # u, [T - 1, B, L]
    transitions: Tensor  # [L, L], from, to
    starts: Tensor  # [L]


def chain_nll(chain: Chain, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood [B] of labels [B, T] that the chain allows, 0 at padding."""
    with torch.no_grad(), without_autocast(chain.emissions):
        sweep = _sweep(chain)
        losses = _safe_losses(sweep, labels, chain.mask)
    if losses is None:
        return log_space_nll(chain, labels)
    likelihood: Tensor = Likelihood.apply(*chain, labels, losses, *sweep)
    return likelihood


def log_space_nll(chain: Chain, labels: Tensor) -> Tensor:
    """Return the same as ``chain_nll``, computed in log space: slower, and never short of range."""
    emissions, _ = absorb_following(chain)
    first = chain.starts.expand(len(labels), 1, -1)
    history = torch.cat([first, rows(chain.transitions, labels[:, :-1])], dim=1)
    return local_nll(history + emissions, labels, chain.mask)


def _sweep(chain: Chain) -> Sweep:
    emissions = chain.emissions.transpose(0, 1)
    messages = (emissions - emissions.amax(dim=-1, keepdim=True)).exp()  # times what follows, in the loop
    transitions, starts, ends = ((scores - scores.amax()).exp() for scores in chain[1:4])
    backwards, inside = transitions.t().contiguous(), chain.mask.t()[..., None]
    sums = torch.empty_like(messages[1:])
    messages[-1].mul_(ends)
    for column in range(len(messages) - 2, -1, -1):
        message = messages[column + 1]
        message.div_(message.amax(dim=-1, keepdim=True))
        torch.where(inside[column + 1], message @ backwards, ends, out=sums[column])
        messages[column].mul_(sums[column])
    messages[0].div_(messages[0].amax(dim=-1, keepdim=True))
    return Sweep(messages, sums, transitions, starts)


def _safe_losses(sweep: Sweep, labels: Tensor, mask: Tensor) -> Tensor | None:
    """Return the losses [B], or None where a number that they are computed from may have lost digits."""
    labels, inside = labels.t(), mask.t()
    total = (sweep.starts * sweep.messages[0]).sum(dim=-1)
    moves = torch.cat([sweep.starts[labels[:1]], sweep.transitions[labels[:-1], labels[1:]]])
    factors = moves * sweep.messages.gather(-1, labels[..., None])[..., 0]
    normalisers = torch.cat([total[None], sweep.sums.gather(-1, labels[:-1, :, None])[..., 0]])
    # The product is checked: a move and a message that are large enough each can still underflow together.
    least = torch.where(inside, factors, 1.0).amin()
    sums = torch.where(inside[1:, :, None], sweep.sums, 1.0).amin() if len(sweep.sums) else total.amin()
    # Written as "not all large enough", so that nan, which no comparison holds for, is unsafe as well.
    if not bool((least >= SAFE_FACTOR) & (sums >= SAFE_SUM) & (total.amin() >= SAFE_SUM)):
        return None
    losses = normalisers.log() - factors.log()
    # A factor is a part of its normaliser, so only rounding can put a loss below 0.
    return losses.masked_fill(~inside, 0.0).clamp(min=0.0).sum(dim=0)


class Likelihood(torch.autograd.Function):
    """Losses that a sweep has computed, with the gradients of its messages; differentiable twice, in log space."""

    @staticmethod
    def forward(
        ctx: Any,
        emissions: Tensor,
        transitions: Tensor,
        starts: Tensor,
        ends: Tensor,
        mask: Tensor,
        labels: Tensor,
        losses: Tensor,
        *sweep: Tensor,
    ) -> Tensor:
        """Return the losses [B], and keep the fields of the ``Chain`` and of the ``Sweep`` for the gradients."""
        ctx.save_for_backward(emissions, transitions, starts, ends, mask, labels, *sweep)
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the chain's scores; the mask, the labels, the losses and the sweep have none."""
        emissions, transitions, starts, ends, mask, labels, *sweep = ctx.saved_tensors
        scores, chain = (emissions, transitions, starts, ends), Chain(emissions, transitions, starts, ends, mask)
        constants = [None] * (3 + len(sweep))
        if not torch.is_grad_enabled():
            with without_autocast(emissions):
                return (*_gradients(chain, labels, Sweep(*sweep), weights), *constants)
        # The caller differentiates these gradients again (create_graph), and the messages have no graph.
        wanted = [tensor for tensor in scores if tensor.requires_grad]
        gradients = iter(torch.autograd.grad(log_space_nll(chain, labels), wanted, weights, create_graph=True))
        return (*(next(gradients) if tensor.requires_grad else None for tensor in scores), *constants)


def _gradients(chain: Chain, labels: Tensor, sweep: Sweep, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return expected counts less those of the labels, each row times its weight [B], for the chain's four scores."""
    marginals, shares = _marginals(sweep, chain.mask.t()[1:, :, None])
    labels, inside = labels.t(), (chain.mask.t() * weights)[..., None]  # [T, B, 1]
    pairs = sweep.transitions * ((shares * inside[1:]).flatten(0, 1).t() @ sweep.messages[1:].flatten(0, 1))
    gold_pairs = (labels[:-1] * len(pairs) + labels[1:]).flatten()
    # ``flatten`` of a contiguous matrix is a view, so this changes ``pairs``.
    pairs.flatten().scatter_add_(0, gold_pairs, -inside[1:].flatten().to(pairs.dtype))
    counts = marginals.scatter_add(-1, labels[..., None], torch.full_like(marginals[..., :1], -1)) * inside
    last = (chain.mask.sum(dim=1) - 1)[None, :, None].expand(1, -1, counts.shape[-1])
    return counts.transpose(0, 1), pairs, counts[0].sum(dim=0), counts.gather(0, last)[0].sum(dim=0)


def _marginals(sweep: Sweep, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return p(y_t) [T, B, L], and p(y_t) / u_t for all columns but the last, which pairs are counted with.

    inside [T - 1, B, 1]: whether a label follows a column. Both results are 0 at padding.
    """
    marginals, shares = torch.empty_like(sweep.messages), torch.empty_like(sweep.sums)
    # Padding takes no probability: multiplied column after column by sums that were not scaled, it would overflow.
    sums = sweep.sums.masked_fill(~inside, torch.inf)
    first = sweep.starts * sweep.messages[0]
    torch.div(first, first.sum(dim=-1, keepdim=True), out=marginals[0])
    for column in range(len(shares)):
        torch.div(marginals[column], sums[column], out=shares[column])
        torch.mul(shares[column] @ sweep.transitions, sweep.messages[column + 1], out=marginals[column + 1])
    return marginals, shares
