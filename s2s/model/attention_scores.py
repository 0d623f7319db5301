"""What attention weights are made from: products of queries and keys, or scores synthesised without keys.

The Synthesizer's scores (Tay et al. 2020, "Synthesizer: Rethinking Self-Attention", sections 3.1 and 3.2) are read off
a row alone, or off no row at all; here rows and columns are indexed by slot, which fits a prefix LM. Scores have unit
variance at the start, as those of the dot product after a layer norm have.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.model.attention import Cached, FusedLinear, dot_products, split
from s2s.model.layers import Linear, linear
from s2s.model.slots import Columns, Slots


class Sizes(NamedTuple):
    """Sizes of an attention: width D, heads H, slots N of source and target together, rank k of factors."""

    width: int
    heads: int
    slots: int = 0
    rank: int = 8


class Scores(nn.Module):
    """Scores of rows for columns: ``forward`` gives [B, H, L, C], or [H, L, C] where they do not depend on the input.

    It is given the rows x [B, L, D], their slots, the columns, and what ``remember`` returned for the columns of the
    memory and for the others.
    """

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:
        """The scores."""
        raise NotImplementedError

    def remember(self, x: Tensor) -> Cached:  # noqa: ARG002 - most scores need nothing of a column but its slot
        """What the scores need of rows [B, L, D] when these are columns: tensors [B, H, L, d]."""
        return ()

    def draw(self) -> None:
        """Draw the tables of the scores anew; linear maps are the initialisation's business."""


class DotScores(Scores):
    """X W_q (X W_k)^T / sqrt(d), the scores of ``DotProductAttention``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.query_key = FusedLinear(sizes.width, sizes.width, maps=2)

    def forward(
        self,
        x: Tensor,
        rows: Slots,  # noqa: ARG002
        columns: Columns,  # noqa: ARG002
        memory: Cached | None,
        own: Cached,
    ) -> Tensor:
        """Scores [B, H, L, C]."""
        width = x.shape[-1]
        query = linear(x, self.query_key.weight[:width], self.query_key.bias[:width])
        return dot_products(split(query, self.heads), None if memory is None else memory[0], own[0])

    def remember(self, x: Tensor) -> Cached:
        """The keys."""
        width = x.shape[-1]
        return (split(linear(x, self.query_key.weight[width:], self.query_key.bias[width:]), self.heads),)


class DenseScores(Scores):
    """relu(x W1 + b1) W2 + b2, a score for each slot: the keys are constants.

    W1 [D, D] is cut into heads; each head has W2 [d, N] and b2 [N] of its own. (The released code shares one W2 among
    the heads and has no b2.) A row's scores depend on that row alone.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.hidden = Linear(sizes.width, sizes.width)
        self.keys = nn.Parameter(torch.empty(sizes.heads, sizes.width // sizes.heads, sizes.slots))
        self.bias = nn.Parameter(torch.empty(sizes.heads, 1, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:  # noqa: ARG002
        """Scores [B, H, L, C]."""
        hidden = split(functional.relu(self.hidden(x)), self.heads)
        return hidden @ columns.of(self.keys) + columns.of(self.bias)

    def draw(self) -> None:
        """Variance 2 / d, as a rectifier leaves half of the squared length (of He's maps all of it); biases 0."""
        nn.init.normal_(self.keys, std=(2 / self.keys.shape[1]) ** 0.5)
        nn.init.zeros_(self.bias)


class FactorizedDenseScores(Scores):
    """The dense scores as products of two short vectors, a of length p and b of length q with p q >= N.

    Slot n gets a[n mod p] b[n div p]: one vector is tiled, each entry of the other repeated, so that every pair
    occurs. Both are linear in one hidden layer relu(x W1 + b1), a head at a time.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.tiled = math.isqrt(sizes.slots - 1) + 1
        self.repeated = -(-sizes.slots // self.tiled)
        self.hidden = Linear(sizes.width, sizes.width)
        each, both = sizes.width // sizes.heads, self.tiled + self.repeated
        self.factors = nn.Parameter(torch.empty(sizes.heads, each, both))
        self.bias = nn.Parameter(torch.empty(sizes.heads, 1, both))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:  # noqa: ARG002
        """Scores [B, H, L, C]."""
        hidden = split(functional.relu(self.hidden(x)), self.heads)
        tiled, repeated = (hidden @ self.factors + self.bias).split([self.tiled, self.repeated], dim=-1)
        return columns.of((repeated[..., :, None] * tiled[..., None, :]).flatten(-2))

    def draw(self) -> None:
        """Variance 2 / d, as a rectifier leaves half of the squared length (of He's maps all of it); biases 0."""
        nn.init.normal_(self.factors, std=(2 / self.factors.shape[1]) ** 0.5)
        nn.init.zeros_(self.bias)


class RandomScores(Scores):
    """A trained table R [N, N] a head, the same for every input."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(sizes.heads, sizes.slots, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:  # noqa: ARG002
        """Scores [H, L, C]."""
        return columns.of(rows.of(self.table, -2))

    def draw(self) -> None:
        """Standard normal."""
        nn.init.normal_(self.table)


class FixedRandomScores(Scores):
    """A table R [N, N] a head that is drawn once and never trained; it is saved with the weights."""

    table: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(sizes.heads, sizes.slots, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:  # noqa: ARG002
        """Scores [H, L, C]."""
        return columns.of(rows.of(self.table, -2))

    def draw(self) -> None:
        """Standard normal."""
        nn.init.normal_(self.table)


class FactorizedRandomScores(Scores):
    """R = R1 R2^T with R1 and R2 [N, k] a head, of rank k at most (8 in the paper).

    The factors have axes of their own for rows and for columns. In the released code both have the columns' axis, so
    that all rows are equal there; that fault is not carried over.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(sizes.heads, sizes.slots, sizes.rank))
        self.columns = nn.Parameter(torch.empty(sizes.heads, sizes.rank, sizes.slots))
        self.draw()

    def forward(self, x: Tensor, rows: Slots, columns: Columns, memory: Cached | None, own: Cached) -> Tensor:  # noqa: ARG002
        """Scores [H, L, C]."""
        return rows.of(self.rows, -2) @ columns.of(self.columns)

    def draw(self) -> None:
        """Normal with variance k^-1/2, so that a sum of k products has variance 1."""
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
