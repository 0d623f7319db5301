"""Filters of a distribution before a sample is drawn; each of them keeps at least one token.

A filter takes normalised log-probabilities and sets those of the tokens that it cuts off to -inf. Of equally likely
tokens it keeps the first. Bounds hold up to rounding: .5 and .3 have a mass of .8 together, though in float32 they add
up to a little less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Filter = Callable[[Tensor], Tensor]
"""A function that sets log-probabilities [N, V] of the tokens that it cuts off to -inf, in each row by itself."""
ROUNDINGS = 16
"""The error of log-probabilities and of sums of probabilities, in units of the last place.

A softmax over V tokens loses a few units; rounding its logarithms changes a sum of probabilities by sum p |log p|
units, at most log V.
"""


@dataclass(frozen=True)
class TopK:
    """The ``count`` likeliest tokens (Fan et al. 2018)."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"top-k keeps at least 1 token, not {self.count}")

    def __call__(self, log_probs: Tensor) -> Tensor:
        # No ``topk``: which of equal entries it takes is not defined, and a stable sort keeps the first.
        order = log_probs.sort(dim=1, descending=True, stable=True).indices
        # A count beyond 64 bits keeps all tokens, but torch cannot compare with it.
        kept = torch.arange(order.size(1), device=order.device) < min(self.count, order.size(1))
        return log_probs.masked_fill(~_members(order, kept), -math.inf)


@dataclass(frozen=True)
class TopP:
    """The fewest likeliest tokens that have ``mass`` together (Holtzman et al. 2020, section 3.1)."""

    mass: float

    def __post_init__(self) -> None:
        _check_share("top-p", self.mass)

    def __call__(self, log_probs: Tensor) -> Tensor:
        order = log_probs.sort(dim=1, descending=True, stable=True).indices
        return _leading(log_probs, order, self.mass)


@dataclass(frozen=True)
class Typical:
    """The fewest tokens whose surprise is nearest the entropy that have ``mass`` together (Meister et al. 2023).

    This may cut off the likeliest token, but never the most typical one.
    """

    mass: float

    def __post_init__(self) -> None:
        _check_share("typical sampling", self.mass)

    def __call__(self, log_probs: Tensor) -> Tensor:
        distances = (-log_probs - _entropy(log_probs)).abs()
        return _leading(log_probs, distances.sort(dim=1, stable=True).indices, self.mass)


@dataclass(frozen=True)
class MinP:
    """The tokens of at least ``share`` times the likeliest one's probability (Nguyen et al. 2024)."""

    share: float

    def __post_init__(self) -> None:
        _check_share("min-p", self.share)

    def __call__(self, log_probs: Tensor) -> Tensor:
        return _at_least(log_probs, log_probs.amax(dim=1, keepdim=True) + math.log(self.share))


@dataclass(frozen=True)
class Epsilon:
    """The tokens of at least ``cutoff`` probability, or the likeliest (Hewitt et al. 2022)."""

    cutoff: float

    def __post_init__(self) -> None:
        _check_share("epsilon sampling", self.cutoff)

    def __call__(self, log_probs: Tensor) -> Tensor:
        return _at_least(log_probs, torch.full_like(log_probs[:, :1], math.log(self.cutoff)))


@dataclass(frozen=True)
class Eta:
    """The tokens of at least min(``cutoff``, sqrt(``cutoff``) exp(-entropy)), or the likeliest (Hewitt et al. 2022)."""

    cutoff: float

    def __post_init__(self) -> None:
        _check_share("eta sampling", self.cutoff)

    def __call__(self, log_probs: Tensor) -> Tensor:
        logarithm = math.log(self.cutoff)
        return _at_least(log_probs, (logarithm / 2 - _entropy(log_probs)).clamp(max=logarithm))


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name}: {share} is not in (0, 1]")


def _entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy [N, 1] in nats; impossible tokens add nothing."""
    # Clamped, since 0 times -inf would be nan.
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(dim=1, keepdim=True)


def _at_least(log_probs: Tensor, threshold: Tensor) -> Tensor:
    """Cut off tokens below the row's threshold [N, 1], a log-probability, but never the likeliest token."""
    threshold = threshold - _rounding(log_probs) * (1 + threshold.abs())
    likeliest = torch.zeros_like(log_probs, dtype=torch.bool).scatter(1, log_probs.argmax(dim=1, keepdim=True), True)
    return log_probs.masked_fill((log_probs < threshold) & ~likeliest, -math.inf)


def _leading(log_probs: Tensor, order: Tensor, mass: float) -> Tensor:
    """Cut off the tokens before which, in the order [N, V], others already have ``mass``; the first one is kept."""
    if mass == 1:
        return log_probs  # a rounded sum could reach 1 before its last terms
    wide = log_probs.dtype if log_probs.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    before = pad(log_probs.gather(1, order).exp().cumsum(dim=1, dtype=wide)[:, :-1], (1, 0))
    rounding = _rounding(log_probs) + log_probs.size(1) * torch.finfo(torch.float64).eps  # of terms, and of their sum
    return log_probs.masked_fill(~_members(order, before < mass * (1 - rounding)), -math.inf)


def _rounding(log_probs: Tensor) -> float:
    return ROUNDINGS * torch.finfo(log_probs.dtype).eps


def _members(order: Tensor, kept: Tensor) -> Tensor:
    """Return a mask [N, V] of the tokens at the ranks of ``order`` [N, V] that are ``kept`` [N, V] or [V]."""
    return torch.empty_like(order, dtype=torch.bool).scatter(1, order, kept.expand_as(order))
