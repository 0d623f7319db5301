"""The base of the linear-chain taggers: it checks inputs and computes the exact quantities of the chain they make."""

import torch
from torch import Tensor, nn

from s2s.heads.chains.chain import Chain, check_possible, log_partition, marginals
from s2s.heads.chains.viterbi import best_paths
from s2s.losses.terms import at_least_float32


class LinearChain(nn.Module):
    """A model of label sequences [B, T] given the emissions [B, T, L] of an encoder.

    In every method: emissions of any floating type, computed and returned in float32 (float64 for float64); mask
    [B, T], True (or 1) at a row's labels, with padding on the right only. Values at padding, nan included, change
    nothing. Errors: a ValueError names the row whose mask has a hole or no label at all, or for whose length no
    sequence is allowed.
    """

    transitions: Tensor  # [L, L], from, to

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        # Keras' glorot_uniform, as in the code of spaces.ac.cn 7213.
        self.transitions = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_labels, num_labels)))

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the logarithm [B] of the sum of e^score over all label sequences of a row's length."""
        return log_partition(self._chain(*self._checked(emissions, mask)))

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Return the probability [B, T, L] of each label at each column, given the whole row; 0 at padding."""
        return marginals(self._chain(*self._checked(emissions, mask)))

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best sequence of each row, labels [B, T] with -100 at padding, and its score [B]."""
        labels, scores = self.k_best(emissions, mask, 1)
        return labels[:, 0], scores[:, 0]

    def k_best(self, emissions: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the K best sequences of each row, best first: labels [B, K, T], -100 at padding, and scores [B, K].

        Where a row has fewer than K allowed sequences, the remaining entries have score -inf and only -100. Not
        differentiable.
        """
        if k < 1:
            raise ValueError(f"k: {k} is below 1")
        chain = self._chain(*self._checked(emissions.detach(), mask))
        labels, scores = best_paths(chain, k)
        check_possible(scores[:, 0], chain.mask)
        return labels, scores

    def _chain(self, emissions: Tensor, mask: Tensor) -> Chain:
        """Make the chain of checked emissions and mask whose scores are this model's."""
        raise NotImplementedError  # the CRF and the MEMM have their own

    def _checked(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return emissions in the precision of the computation and 0 at padding, and the mask as bool."""
        if emissions.dim() != 3 or emissions.shape[-1] != self.num_labels:
            raise ValueError(f"emissions {list(emissions.shape)} are not [B, T, {self.num_labels}]")
        if mask.shape != emissions.shape[:2]:
            raise ValueError(f"mask {list(mask.shape)} is not [B, T] of emissions {list(emissions.shape)}")
        mask = mask.bool()
        empty, holes = ~mask.any(dim=1), (mask[:, 1:] & ~mask[:, :-1]).any(dim=1)
        if bool(empty.any()):
            raise ValueError(f"mask: row {int(empty.nonzero()[0])} has no label (length 0)")
        if bool(holes.any()):
            raise ValueError(f"mask: row {int(holes.nonzero()[0])} has a hole; padding belongs on the right only")
        # masked_fill and no product with the mask: nan times 0 is nan.
        return at_least_float32(emissions).masked_fill(~mask[..., None], 0.0), mask

    def _checked_labels(self, labels: Tensor, mask: Tensor) -> Tensor:
        """Return labels [B, T], 0 at padding. Errors: a ValueError names the first that is no label."""
        if labels.shape != mask.shape:
            raise ValueError(f"labels {list(labels.shape)} and mask {list(mask.shape)} differ in shape")
        wrong = ((labels < 0) | (labels >= self.num_labels)) & mask
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(f"labels[{row}, {column}]: {int(labels[row, column])} is not in 0..{self.num_labels - 1}")
        return labels.long().masked_fill(~mask, 0)
