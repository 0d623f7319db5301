"""Parametrizations of a transition matrix (``torch.nn.utils.parametrize``): scaled for its rate, or of low rank."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from s2s.heads.chains.chain import without_autocast
from s2s.losses.terms import at_least_float32


class Scaled(nn.Module):
    """A parameter kept as value / multiplier, so that each step of an optimizer moves the value further.

    The effective learning rate is the multiplier times the optimizer's under Adam and its kin, whose steps do not
    depend on the gradient's size, and its square times under plain gradient descent. The initial value stays.
    """

    def __init__(self, multiplier: float) -> None:
        super().__init__()
        self.multiplier = multiplier

    def forward(self, kept: Tensor) -> Tensor:
        """Return the value in use."""
        return kept * self.multiplier

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the parameter that keeps a value."""
        return value / self.multiplier


class LowRank(nn.Module):
    """A matrix [L, L] kept as two factors [L, R], left and right: left right^T, 2 L R parameters.

    Both factors are scaled as in ``Scaled``. Assigning a matrix keeps its best approximation of rank R.
    """

    def __init__(self, rank: int, multiplier: float) -> None:
        super().__init__()
        self.rank, self.multiplier = rank, multiplier

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the matrix in use, [L, L]."""
        left, right = self.scaled(left, right)
        with without_autocast(left):
            return left @ right.t()

    def scaled(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors in use, [L, R] each."""
        return at_least_float32(left) * self.multiplier, at_least_float32(right) * self.multiplier

    def right_inverse(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the matrix's largest singular values, of equal norms."""
        left, sizes, right = torch.linalg.svd(at_least_float32(matrix.detach()), full_matrices=False)
        roots = sizes[: self.rank].sqrt() / self.multiplier
        return left[:, : self.rank] * roots, right[: self.rank].t() * roots


def scale(module: nn.Module, name: str, multiplier: float) -> None:
    """Keep a module's parameter as value / multiplier. Errors: a ValueError unless the multiplier is above 0."""
    check_multiplier(multiplier)
    # At 1 the parameter keeps its plain name in checkpoints.
    if multiplier != 1:
        parametrize.register_parametrization(module, name, Scaled(multiplier))


def factorise(module: nn.Module, name: str, rank: int, multiplier: float) -> None:
    """Keep a module's square parameter as two factors. Errors: a ValueError unless 1 <= rank <= its size."""
    check_multiplier(multiplier)
    size = getattr(module, name).shape[0]
    if not 1 <= rank <= size:
        raise ValueError(f"rank: {rank} is not in 1..{size}, the number of labels")
    parametrize.register_parametrization(module, name, LowRank(rank, multiplier))


def factors(module: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Return the factors in use, [L, R] each, of a parameter that ``factorise`` keeps."""
    kept = cast(Any, module).parametrizations[name]
    # torch's names for the tensors that a ``right_inverse`` returns.
    return kept[0].scaled(kept.original0, kept.original1)


def check_multiplier(multiplier: float) -> None:
    """Raise a ValueError unless the multiplier is above 0."""
    if not multiplier > 0:
        raise ValueError(f"rate_multiplier: {multiplier} is not above 0")


def rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Return rows [..., L] of a matrix [N, L]."""
    # The backward of an embedding takes half the time of matrix[index] at 300 labels, on one CPU thread.
    return functional.embedding(index, matrix)
