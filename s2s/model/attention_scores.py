"""The scores from which attention weights are made: products of queries and keys, or scores without keys.

The Synthesizer's scores (Tay et al. 2020, "Synthesizer: Rethinking Self-Attention", sections 3.1 and 3.2) are computed
from a row alone, or from no row at all; here slots number rows and columns, which fits a prefix LM. Scores have unit
variance at the start, like those of the dot product after a layer norm.
"""

# ruff: noqa: ARG002 - each class takes all arguments of the contract, and few need all of them
import math
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model.attention import Cached, FusedLinear, Slots, dot_products, split_heads
from s2s.model.layers import Linear, linear


class Sizes(NamedTuple):
    """Sizes of an attention: width D, heads H, slots N of source and target together, rank k of factors."""

    width: int
    heads: int
    slots: int = 0
    rank: int = 8


class Columns(NamedTuple):
    """The columns that a row attends to: the first ``source`` slots, those of a memory, and then ``rest``."""

    source: int
    rest: Slots

    def of(self, table: Tensor) -> Tensor:
        """Return the table's entries at these columns along its last dimension."""
        rest = self.rest.of(table, -1)
        return rest if self.source == 0 else torch.cat([table[..., : self.source], rest], dim=-1)


class Scores(Protocol):
    """A module that scores columns for rows: a row of ``SCORES``."""

    uses_slots: ClassVar[bool]
    """Whether slots number its rows or columns; sources and targets are then limited to the recipe's slots."""

    def __init__(self, sizes: Sizes) -> None: ...

    def __call__(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [B, H, L, C] of rows x [B, L, D], or [H, L, C] where they do not depend on the input.

        ``memory`` and ``cached`` are what ``remember`` returned for the memory's columns and for the others.
        """

    def remember(self, x: Tensor) -> Cached:
        """Return what the scores need of rows [B, L, D] when these are columns: tensors [B, H, L, d]."""

    def draw(self) -> None:
        """Fill the tables of the scores with random numbers; linear maps are left to ``s2s.model.initialization``."""


class DotScores(nn.Module):
    """X W_q (X W_k)^T / sqrt(d), the scores of ``DotProductAttention``, as a part of a mixture."""

    uses_slots: ClassVar[bool] = False

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query_key = FusedLinear(sizes.width, sizes.width, maps=2)

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [B, H, L, C]."""
        width = x.shape[-1]
        # The keys' half of the matrix is left to ``remember``: a memory and earlier steps have their keys already.
        query = linear(x, self.query_key.weight[:width], self.query_key.bias[:width])
        return dot_products(split_heads(query, self.heads), None if memory is None else memory[0], cached[0])

    def remember(self, x: Tensor) -> Cached:
        """Return the keys."""
        width = x.shape[-1]
        return (split_heads(linear(x, self.query_key.weight[width:], self.query_key.bias[width:]), self.heads),)

    def draw(self) -> None:
        """Do nothing: there are only linear maps."""


class SlotScores(nn.Module):
    """Base of scores that need nothing of a column but its slot, and so cache nothing."""

    uses_slots: ClassVar[bool] = True

    def remember(self, x: Tensor) -> Cached:
        return ()


class DenseScores(SlotScores):
    """relu(x W1 + b1) W2 + b2, a score for each slot: the keys are constants.

    W1 [D, D] is cut into heads; each head has a W2 [d, N] and a b2 [N]. (The released code shares one W2 among the
    heads and has no b2.) A row's scores depend on that row alone.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.hidden = Linear(sizes.width, sizes.width)
        self.keys = nn.Parameter(torch.empty(sizes.heads, sizes.width // sizes.heads, sizes.slots))
        self.bias = nn.Parameter(torch.empty(sizes.heads, 1, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [B, H, L, C]."""
        hidden = split_heads(functional.relu(self.hidden(x)), self.heads)
        return hidden @ columns.of(self.keys) + columns.of(self.bias)

    def draw(self) -> None:
        """Draw the keys with variance 2 / d, and set biases to 0."""
        # A rectifier leaves half of the squared length, and 2 / d gives it back.
        nn.init.normal_(self.keys, std=(2 / self.keys.shape[1]) ** 0.5)
        nn.init.zeros_(self.bias)


class FactorizedDenseScores(SlotScores):
    """The dense scores as products of two short vectors, a of length p and b of length q with p q >= N.

    Slot n gets a[n mod p] b[n div p]: one vector is tiled, each entry of the other repeated, so that every pair
    occurs. Both are linear in one hidden layer relu(x W1 + b1), a head at a time.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        # The least p with p p >= N: two factors of about equal length have the fewest entries together.
        self.tiled = math.isqrt(sizes.slots - 1) + 1
        self.repeated = -(-sizes.slots // self.tiled)
        self.hidden = Linear(sizes.width, sizes.width)
        lengths = self.tiled + self.repeated
        self.factors = nn.Parameter(torch.empty(sizes.heads, sizes.width // sizes.heads, lengths))
        self.bias = nn.Parameter(torch.empty(sizes.heads, 1, lengths))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [B, H, L, C]."""
        hidden = split_heads(functional.relu(self.hidden(x)), self.heads)
        tiled, repeated = (hidden @ self.factors + self.bias).split([self.tiled, self.repeated], dim=-1)
        return columns.of((repeated[..., :, None] * tiled[..., None, :]).flatten(-2))

    def draw(self) -> None:
        """Draw the factors with variance 2 / d, as the keys of ``DenseScores``, and set biases to 0."""
        nn.init.normal_(self.factors, std=(2 / self.factors.shape[1]) ** 0.5)
        nn.init.zeros_(self.bias)


class RandomScores(SlotScores):
    """A trained table R [N, N] for each head, the same for every input."""

    table: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self._hold(torch.empty(sizes.heads, sizes.slots, sizes.slots))
        self.draw()

    def _hold(self, table: Tensor) -> None:
        self.table = nn.Parameter(table)

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [H, L, C]."""
        return columns.of(rows.of(self.table, -2))

    def draw(self) -> None:
        """Draw the table from the standard normal distribution."""
        nn.init.normal_(self.table)


class FixedRandomScores(RandomScores):
    """A table R [N, N] for each head that is drawn once and never trained; it is saved with the weights."""

    def _hold(self, table: Tensor) -> None:
        self.register_buffer("table", table)


class FactorizedRandomScores(SlotScores):
    """R = R1 R2^T with R1 and R2 [N, k] for each head, of rank k at most (8 in the paper).

    One factor has the rows' axis and the other the columns'. In the released code both have the columns' axis, so that
    all rows are equal there; that fault is not carried over.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(sizes.heads, sizes.slots, sizes.rank))
        self.columns = nn.Parameter(torch.empty(sizes.heads, sizes.rank, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, cached: Cached) -> Tensor:
        """Return scores [H, L, C]."""
        return rows.of(self.rows, -2) @ columns.of(self.columns)

    def draw(self) -> None:
        """Draw both factors with variance k^-1/2, so that a sum of k products has variance 1."""
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor, std=self.rows.shape[-1] ** -0.25)


SCORES: dict[str, type[Scores]] = {
    "dot": DotScores,
    "dense": DenseScores,
    "random": RandomScores,
    "fixed_random": FixedRandomScores,
    "factorized_dense": FactorizedDenseScores,
    "factorized_random": FactorizedRandomScores,
}
