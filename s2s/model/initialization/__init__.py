"""The initial weights of a model without a checkpoint; ``python -m s2s.model.initialization`` reports on them.

Two random directions of R^n are almost at right angles: their cosine has mean 0 and variance 1/n. So a matrix
[m, n] of independent entries with mean 0 and variance 1/m has columns of length 1 that are nearly orthogonal,
W^T W = I but for entries of variance 1/m, and keeps the length of any fixed vector up to a factor of variance 2/m;
a stack of such maps neither explodes nor dies out. It is near to orthogonal entry by entry only: the singular values
of a square one fill [0, 2]. (Su Jianlin 2020, kexue.fm 7180.)

Variance 1/m keeps lengths; variance 1/n keeps the mean square of a coordinate (LeCun). In the backward m and n are
exchanged. Where m = n all of them agree; Xavier's 2 / (m + n) is between.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from s2s.model.attention import FusedLinear
from s2s.model.attention_scores import SCORES

CUT = 2.0
"""The number of deviations at which a normal distribution is cut."""


def left_by_cut(cut: float) -> float:
    """Return the deviation of a standard normal after a cut at ``cut`` deviations: 0.8796 at 2.

    Its variance is 1 - 2 c f(c) / (2 F(c) - 1), f and F being the density and the distribution of the normal.
    """
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def truncated_normal_(weight: Tensor, deviation: float) -> None:
    """Fill with a normal cut at two deviations that has this deviation after the cut."""
    cut_normal_(weight, deviation / left_by_cut(CUT))


def cut_normal_(weight: Tensor, deviation: float) -> None:
    """Fill with a normal cut at two deviations that has this deviation before the cut."""
    nn.init.trunc_normal_(weight, std=deviation, a=-CUT * deviation, b=CUT * deviation)


def bert(weight: Tensor) -> None:
    """Fill with deviation 0.02 before the cut, 0.0176 after it, whatever the shape (Devlin 2018)."""
    cut_normal_(weight, 0.02)


def xavier(weight: Tensor) -> None:
    """Fill with variance 2 / (inputs + outputs), between forward's and backward's (Glorot and Bengio 2010)."""
    truncated_normal_(weight, math.sqrt(2 / sum(weight.shape)))


def he(weight: Tensor) -> None:
    """Fill with variance 2 / inputs: the 2 makes up for the half that a rectifier cuts (He et al. 2015)."""
    truncated_normal_(weight, math.sqrt(2 / weight.shape[1]))


def lecun(weight: Tensor) -> None:
    """Fill with variance 1 / inputs: outputs have the inputs' mean square (LeCun et al. 1998)."""
    truncated_normal_(weight, math.sqrt(1 / weight.shape[1]))


def orthogonal(weight: Tensor) -> None:
    """Make all singular values 1: W^T W = I where outputs are not fewer than inputs, else W W^T = I (Saxe 2013)."""
    nn.init.orthogonal_(weight)


def unit_rows(width: int) -> float:
    """Return the deviation of rows of length 1, for which an output tied to the embeddings has unit variance."""
    return width**-0.5


def bert_rows(width: int) -> float:  # noqa: ARG001
    """Return BERT's 0.02 after its cut."""
    return 0.02 * left_by_cut(CUT)


class Law(NamedTuple):
    """How the matrix [outputs, inputs] of a linear map is filled, and the deviation of an embedding of a width."""

    fill: Callable[[Tensor], None]
    embedding: Callable[[int], float] = unit_rows


INITIALIZATIONS = {
    "bert": Law(bert, bert_rows),
    "xavier": Law(xavier),
    "he": Law(he),
    "lecun": Law(lecun),
    "orthogonal": Law(orthogonal),
}


def initialise(module: nn.Module, name: str = "xavier") -> None:
    """Draw linear maps and embeddings by a row of ``INITIALIZATIONS``, and set biases to 0.

    The classes of attention scores draw their own tables.
    """
    law = INITIALIZATIONS[name]
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            # torch's default has deviation 1, for which the scores of a tied output would have that of sqrt(D).
            truncated_normal_(part.weight, law.embedding(part.embedding_dim))
        if isinstance(part, nn.Linear):
            # Query, key and value are three maps in one matrix; a law reads the shape of one.
            for block in part.weight.chunk(part.maps if isinstance(part, FusedLinear) else 1):
                law.fill(block)
            nn.init.zeros_(part.bias)
        if isinstance(part, tuple(SCORES.values())):
            part.draw()  # type: ignore[operator]
