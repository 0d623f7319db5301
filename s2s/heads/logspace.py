"""Sums of exponentials that stay finite, in value and in gradient."""

import torch
from torch import Tensor

NOTHING = -1e30
"""The logarithm of zero. It is finite, so that no gradient meets infinity minus infinity."""

SAFE_SUM = 1e-26
"""The smallest sum of products of factors up to 1 in which terms below float32's range are lost without a trace."""


def precise(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_sum(x: Tensor) -> Tensor:
    """The logsumexp over the last dimension, whose gradient keeps its digits under large x.

    torch's takes the gradient e^(x - logsumexp(x)) from the rounded result, which at 10,000 is off by 1e-4.
    """
    largest = x.detach().amax(dim=-1, keepdim=True)
    return (x - largest).logsumexp(dim=-1) + largest[..., 0]


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on the tensor's device keep their precision."""
    return torch.autocast(x.device.type, enabled=False)


class LogMatrix:
    """The product with a matrix of exponentials, in log space: x -> log sum_j e^(matrix[i, j] + x[j]).

    One matrix product of exponentials whose largest are scaled to 1. What float32 cannot hold of a sum is less than
    1.2e-38 a term: nothing beside a sum of ``SAFE_SUM``. The sums below it, as of entries that forbid, are done again
    one by one as logsumexp.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.largest = matrix.detach().amax()
        self.factors = (matrix - self.largest).exp().t()

    def __call__(self, x: Tensor) -> Tensor:
        """From x [..., L] to [..., L]."""
        largest = x.detach().amax(dim=-1, keepdim=True)
        with without_autocast(x):
            sums = (x - largest).exp() @ self.factors
        unsafe = sums < SAFE_SUM
        *rows, column = unsafe.nonzero(as_tuple=True)
        if len(column) == 0:
            return sums.log() + (largest + self.largest)
        logs = sums.masked_fill(unsafe, 1.0).log() + (largest + self.largest)
        return logs.masked_scatter(unsafe, log_sum(self.matrix[column] + x[tuple(rows)]))
