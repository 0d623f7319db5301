"""Maximum-entropy Markov model: a softmax at each label, given the label before it."""

import torch
from torch import Tensor

from s2s.heads.chains.chain import Chain, LogMatrix, local_nll, without_autocast
from s2s.heads.chains.linear_chain import LinearChain
from s2s.heads.chains.transitions import factorise, factors, rows, scale
from s2s.losses.terms import at_least_float32


class MEMM(LinearChain):
    """p(y | x) = softmax(emissions_1)(y_1) prod_t softmax(transitions(y_(t-1), .) + emissions_t)(y_t).

    (McCallum et al. 2000; spaces.ac.cn 7213.) ``bidirectional`` scores each sequence with the mean of two
    log-likelihoods, left to right and right to left with the transposed transitions: the article's Bi-MEMM, no new
    parameters. That mean is no distribution: its ``log_partition`` is below 0 (in one direction it is 0), and
    ``marginals`` are those of the distribution proportional to it.

    ``viterbi`` and ``k_best`` are exact: they maximise the log-likelihood above, the local normalisers included.
    ``rank`` keeps the transitions as a product of two [L, rank] factors. ``rate_multiplier`` as in ``CRF``.
    """

    step_scale = 1.0  # of the logits at every label but the first

    def __init__(
        self, num_labels: int, bidirectional: bool = False, rank: int | None = None, rate_multiplier: float = 1.0
    ) -> None:
        super().__init__(num_labels)
        self.bidirectional, self.rank = bidirectional, rank
        if rank is None:
            scale(self, "transitions", rate_multiplier)
        else:
            factorise(self, "transitions", rank, rate_multiplier)

    def nll(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the negative log-likelihood [B] of labels [B, T], summed over a row; the mean of both directions.

        Given the labels no column waits for another, so there is no loop. Errors: a ValueError names the first label
        that is none.
        """
        emissions, mask = self._checked(emissions, mask)
        labels = self._checked_labels(labels, mask)
        forward = self._directed_nll(emissions, labels, mask, backwards=False)
        if not self.bidirectional:
            return forward
        reversed_emissions, reversed_labels = reverse(emissions, mask), reverse(labels, mask)
        return (forward + self._directed_nll(reversed_emissions, reversed_labels, mask, backwards=True)) / 2

    def _directed_nll(self, emissions: Tensor, labels: Tensor, mask: Tensor, backwards: bool) -> Tensor:
        later = self.step_scale * (self._history(labels[:, :-1], backwards) + emissions[:, 1:])
        return local_nll(torch.cat([emissions[:, :1], later], dim=1), labels, mask)

    def _history(self, labels: Tensor, backwards: bool) -> Tensor:
        """Return the scores [B, T, L] of moving to each label from given ones; backwards, of having come from it."""
        if self.rank is None:
            transitions = at_least_float32(self.transitions)
            return rows(transitions.t() if backwards else transitions, labels)
        # Only the rows that the labels need: the matrix [L, L] is never built in training.
        left, right = factors(self, "transitions")
        start, end = (right, left) if backwards else (left, right)
        with without_autocast(start):
            return rows(start, labels) @ end.t()

    def _chain(self, emissions: Tensor, mask: Tensor) -> Chain:
        """Make the chain whose scores are log-likelihoods: each step's normaliser moves to the label before it."""
        transitions, edge = self.step_scale * at_least_float32(self.transitions), emissions.new_zeros(self.num_labels)
        potentials = self._potentials(emissions, transitions, mask)
        if self.bidirectional:
            backwards = self._potentials(reverse(emissions, mask), transitions.t(), mask)
            potentials = (potentials + reverse(backwards, mask)) / 2
        return Chain(potentials, transitions, edge, edge, mask)

    def _potentials(self, emissions: Tensor, transitions: Tensor, mask: Tensor) -> Tensor:
        later = self.step_scale * emissions[:, 1:]
        normalisers = LogMatrix(transitions)(later).masked_fill(~mask[:, 1:, None], 0.0)
        scores = torch.cat([emissions[:, :1].log_softmax(dim=-1), later], dim=1)
        return scores - torch.cat([normalisers, torch.zeros_like(emissions[:, :1])], dim=1)


class HalfLogitMEMM(MEMM):
    """The MEMM of the article's code (bert4keras): its logits are (transitions + emissions) / 2 after the first label.

    There the first label's history is its own emissions, (emissions + emissions) / 2: temperature 1 at the first label
    and 2 at all others. This is a distribution too, but not the one that the article's prose defines. The code is
    always bidirectional, divides the loss by the number of labels, and decodes without the local normalisers, as if
    this were a CRF: by the sums of emissions and transitions, which is not the model's most likely sequence.
    """

    step_scale = 0.5


def reverse(x: Tensor, mask: Tensor) -> Tensor:
    """Return each row's columns in reverse order, x [B, T, ...]; padding keeps its columns."""
    # A plain flip would move the padding to the front, and the first label of the way back would be padding.
    columns = torch.arange(x.shape[1], device=x.device).expand(mask.shape)
    lengths = mask.sum(dim=1, keepdim=True)
    index = torch.where(mask, lengths - 1 - columns, columns)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]
