"""The likelihood of label sequences in a linear chain, in exponentials scaled a column at a time, and its gradients.

One sweep from the end gives messages v_t, the weight of each label with all that follows it, as in ``chains.absorbed``
but not in log space: v_t = e^emissions_t * u_t with u_t = e^transitions v_(t+1), each divided by its row's largest.
Then p(y_1) = e^starts v_1 / their sum and p(y_t | y_(t-1)) = e^transitions(y_(t-1), y_t) v_t(y_t) / u_(t-1)(y_(t-1)).
The gradients are expected counts less those of the labels (Lafferty et al. 2001), from one sweep the other way.

A product of factors up to 1 that float32 cannot hold is less than 1.2e-38: nothing beside a sum of ``SAFE_SUM``. Where
some sum is smaller, as under transitions of -60 or -10,000, nothing is returned, and log space is to be used instead.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.heads.chains.chain import Chain, absorbed, local_nll
from s2s.heads.chains.transitions import rows
from s2s.heads.logspace import SAFE_SUM, without_autocast

SAFE_FACTOR = 1e-30
"""The smallest factor of a label sequence that float32 still holds in all its digits."""


class Sweep(NamedTuple):
    """Messages v and sums u, columns first; ``nexts`` and ``firsts`` are e^transitions and e^starts, scaled."""

    messages: Tensor  # [T, B, L]
    sums: Tensor  # [T - 1, B, L]
    nexts: Tensor  # [L, L], from, to
    firsts: Tensor  # [L]


def chain_nll(chain: Chain, labels: Tensor) -> Tensor:
    """The negative log-likelihood [B] of labels [B, T] that the chain allows, 0 at padding."""
    with torch.no_grad(), without_autocast(chain.emissions):
        sweep = _swept(chain)
        losses = _safe_losses(sweep, labels, chain.mask)
    if losses is None:
        return log_space_nll(chain, labels)
    found: Tensor = Likelihood.apply(*chain, labels, losses, *sweep)
    return found


def log_space_nll(chain: Chain, labels: Tensor) -> Tensor:
    """The same in log space: slower, and never short of range."""
    within, _ = absorbed(chain)
    first = chain.starts.expand(len(labels), 1, -1)
    history = torch.cat([first, rows(chain.transitions, labels[:, :-1])], dim=1)
    return local_nll(history + within, labels, chain.mask)


def _swept(chain: Chain) -> Sweep:
    emissions = chain.emissions.transpose(0, 1)
    messages = (emissions - emissions.amax(dim=-1, keepdim=True)).exp()  # [T, B, L], for now without what follows
    nexts, firsts, ends = (_scaled(scores) for scores in (chain.transitions, chain.starts, chain.ends))
    backwards, inside = nexts.t().contiguous(), chain.mask.t()[..., None]
    sums = torch.empty_like(messages[1:])
    messages[-1].mul_(ends)
    for column in range(len(messages) - 2, -1, -1):
        message = messages[column + 1]
        message.div_(message.amax(dim=-1, keepdim=True))
        torch.where(inside[column + 1], message @ backwards, ends, out=sums[column])
        messages[column].mul_(sums[column])
    messages[0].div_(messages[0].amax(dim=-1, keepdim=True))
    return Sweep(messages, sums, nexts, firsts)


def _scaled(scores: Tensor) -> Tensor:
    return (scores - scores.amax()).exp()


def _safe_losses(sweep: Sweep, labels: Tensor, mask: Tensor) -> Tensor | None:
    """The losses [B], or None where some number that they come from may have lost digits."""
    labels, inside = labels.t(), mask.t()
    whole = (sweep.firsts * sweep.messages[0]).sum(dim=-1)
    factors = sweep.messages.gather(-1, labels[..., None])[..., 0]
    moves = torch.cat([sweep.firsts[labels[:1]], sweep.nexts[labels[:-1], labels[1:]]])
    before = torch.cat([whole[None], sweep.sums.gather(-1, labels[:-1, :, None])[..., 0]])
    least = torch.where(inside, torch.minimum(factors, moves), 1.0).amin()
    sums = torch.where(inside[1:, :, None], sweep.sums, 1.0).amin() if len(sweep.sums) else whole.amin()
    if not bool((least >= SAFE_FACTOR) & (sums >= SAFE_SUM) & (whole.amin() >= SAFE_SUM)):  # nan is not safe either
        return None
    losses = before.log() - (factors * moves).clamp(min=torch.finfo(factors.dtype).tiny).log()
    return losses.masked_fill(~inside, 0.0).clamp(min=0.0).sum(dim=0)


class Likelihood(torch.autograd.Function):
    """Losses that a sweep has found, and the gradients that its messages give; differentiable twice in log space."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Chain, labels, losses and sweep to losses [B]."""
        ctx.save_for_backward(*tensors)
        return tensors[6].clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the chain's scores."""
        tensors = ctx.saved_tensors
        chain, labels, sweep = Chain(*tensors[:5]), tensors[5], Sweep(*tensors[7:])
        if torch.is_grad_enabled():  # they are to be differentiated again
            wanted = [tensor for tensor in chain[:4] if tensor.requires_grad]
            found = iter(torch.autograd.grad(log_space_nll(chain, labels), wanted, weights, create_graph=True))
            slow = [next(found) if tensor.requires_grad else None for tensor in chain[:4]]
            return (*slow, *[None] * 7)
        with without_autocast(chain.emissions):
            return (*_gradients(chain, labels, sweep, weights), *[None] * 7)


def _gradients(chain: Chain, labels: Tensor, sweep: Sweep, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expected counts less those of the labels, of each row with its weight [B]."""
    marginals, shares = _marginals(sweep, chain.mask.t()[1:, :, None])
    labels, inside = labels.t(), (chain.mask.t() * weights)[..., None]  # [T, B, 1]
    pairs = sweep.nexts * ((shares * inside[1:]).flatten(0, 1).t() @ sweep.messages[1:].flatten(0, 1))
    pairs.flatten().scatter_add_(
        0, (labels[:-1] * len(pairs) + labels[1:]).flatten(), -inside[1:].flatten().to(pairs.dtype)
    )
    counts = marginals.scatter_add(-1, labels[..., None], torch.full_like(marginals[..., :1], -1)) * inside
    last = (chain.mask.sum(dim=1) - 1)[None, :, None].expand(1, -1, counts.shape[-1])
    return counts.transpose(0, 1), pairs, counts[0].sum(dim=0), counts.gather(0, last)[0].sum(dim=0)


def _marginals(sweep: Sweep, inside: Tensor) -> tuple[Tensor, Tensor]:
    """p(y_t) [T, B, L], and p(y_t) / u_t for all but the last column: what pairs are counted with; 0 at padding.

    inside [T - 1, B, 1]: whether a label follows a column.
    """
    marginals, shares = torch.empty_like(sweep.messages), torch.empty_like(sweep.sums)
    sums = sweep.sums.masked_fill(~inside, torch.inf)  # no probability goes on to padding, where it would only grow
    first = sweep.firsts * sweep.messages[0]
    torch.div(first, first.sum(dim=-1, keepdim=True), out=marginals[0])
    for column in range(len(shares)):
        torch.div(marginals[column], sums[column], out=shares[column])
        torch.mul(shares[column] @ sweep.nexts, sweep.messages[column + 1], out=marginals[column + 1])
    return marginals, shares
