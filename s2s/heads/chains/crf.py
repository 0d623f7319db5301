"""Conditional random field: one softmax over all label sequences."""

import torch
from torch import Tensor, nn

from s2s.heads.chains.chain import NOTHING, Chain
from s2s.heads.chains.likelihood import chain_nll
from s2s.heads.chains.linear_chain import LinearChain
from s2s.heads.chains.tag_schemes import Constraints
from s2s.heads.chains.transitions import scale
from s2s.losses.terms import at_least_float32


class CRF(LinearChain):
    """p(y | x) = e^(sum_t emissions_t(y_t) + sum_t transitions(y_(t-1), y_t)) / Z(x) (Lafferty et al. 2001).

    ``boundaries`` adds learned scores ``starts`` and ``ends`` [L] of the first and the last label. ``constraints``
    forbid transitions, first and last labels (``scheme_constraints``): a sequence that breaks them has probability 0
    and is never chosen. ``rate_multiplier`` multiplies the learning rate of transitions and boundaries, by keeping
    them as value / multiplier (spaces.ac.cn 7213): ``crf.transitions`` still reads and takes the value in use, but the
    parameter is then ``crf.parametrizations.transitions.original``.
    """

    starts: Tensor | None
    ends: Tensor | None
    allowed_starts: Tensor | None
    allowed_transitions: Tensor | None
    allowed_ends: Tensor | None

    def __init__(
        self,
        num_labels: int,
        boundaries: bool = False,
        constraints: Constraints | None = None,
        rate_multiplier: float = 1.0,
    ) -> None:
        super().__init__(num_labels)
        self.register_parameter("starts", nn.Parameter(torch.zeros(num_labels)) if boundaries else None)
        self.register_parameter("ends", nn.Parameter(torch.zeros(num_labels)) if boundaries else None)
        for name in ("transitions", "starts", "ends") if boundaries else ("transitions",):
            scale(self, name, rate_multiplier)
        # Not persistent: a recipe's scheme makes the constraints again, so checkpoints need not hold them.
        for name in Constraints._fields:
            allowed = None if constraints is None else getattr(constraints, name)
            if allowed is not None and any(size != num_labels for size in allowed.shape):
                raise ValueError(f"constraints.{name}: {list(allowed.shape)} does not fit {num_labels} labels")
            self.register_buffer(f"allowed_{name}", allowed, persistent=False)

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood [B] of labels [B, T]; labels at padding are ignored.

        It is never below 0, and exact for a small loss under large scores, where log Z - score would cancel. Errors: a
        ValueError names the first label that is none, or that the constraints forbid.
        """
        chain = self._chain(*self._checked(emissions, mask))
        labels = self._checked_labels(labels, chain.mask)
        self._check_allowed(labels, chain.mask)
        return chain_nll(chain, labels)

    def _chain(self, emissions: Tensor, mask: Tensor) -> Chain:
        edge = emissions.new_zeros(self.num_labels)
        starts = _masked(edge if self.starts is None else self.starts, self.allowed_starts)
        ends = _masked(edge if self.ends is None else self.ends, self.allowed_ends)
        return Chain(emissions, _masked(self.transitions, self.allowed_transitions), starts, ends, mask)

    def _check_allowed(self, labels: Tensor, mask: Tensor) -> None:
        if self.allowed_starts is None or self.allowed_transitions is None or self.allowed_ends is None:
            return
        inner = self.allowed_transitions[labels[:, :-1], labels[:, 1:]] | ~mask[:, 1:]
        wrong = torch.cat([~self.allowed_starts[labels[:, :1]], ~inner], dim=1)
        is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
        wrong = wrong | (is_last & ~self.allowed_ends[labels])
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(f"labels[{row}, {column}]: label {int(labels[row, column])} is forbidden there")


def _masked(scores: Tensor, allowed: Tensor | None) -> Tensor:
    scores = at_least_float32(scores)
    return scores if allowed is None else scores.masked_fill(~allowed, NOTHING)
