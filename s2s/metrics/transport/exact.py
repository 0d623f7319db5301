"""Distances of two sentences by exact optimal transport between their token vectors, with POT (extra ``transport``)."""

from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from s2s.errors import optional_module
from s2s.metrics.transport.bags import Problem, Vectors, array, movers_problem, rotators_problem

_PIVOTS = 10_000_000
"""Limit of the network simplex. POT's default of 100 000 is too low for some pairs of a thousand tokens."""


def word_movers_distance(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Return the least mean distance by which the vectors of one sentence can be moved onto those of the other.

    x [n, D] and y [m, D], arrays or tensors; weights [n] and [m], equal unless given, must add up to 1. A vector of
    weight 0 counts for nothing. With Euclidean d: min over plans P >= 0 with row sums ``x_weights`` and column sums
    ``y_weights`` of sum_ij P_ij d(x_i, y_j). A metric between bags: 0 for equal ones, symmetric, with the triangle
    inequality. Vectors of zeros are points like others: cut padding off, or give it weight 0.

    Raises ``ValueError`` for an empty sentence, numbers that are not finite, shapes that do not fit, and weights that
    are negative or not normalised; ``UserError`` where POT is not installed.
    Source: Kusner et al., "From Word Embeddings To Document Distances", 2015, section 4; with equal weights for the
    tokens of a sentence it is their distance of bags of words.
    """
    return _cost(movers_problem(x, y, x_weights, y_weights))


def word_movers_distance_article(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Return word mover's distance with the root of the mean, not of the sum, of the squared differences as its cost.

    Equal to ``word_movers_distance`` / sqrt(D), and so are its bounds; arguments and errors are the same.
    Source: Su Jianlin's article 7388 on WMD and WRD, 2020, whose code takes the mean where the text takes the sum.
    """
    return word_movers_distance(x, y, x_weights, y_weights) / array(x).shape[1] ** 0.5


def word_rotators_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return the least mean 1 - cosine by which the vectors of one sentence can be turned onto those of the other.

    x [n, D] and y [m, D], arrays or tensors; a vector's weight is its norm over the sum of the sentence's norms.
    In [0, 2]; 1 - distance is a similarity in [-1, 1]. Symmetric, and blind to the length of a whole sentence's
    vectors, but no metric: 1 - cosine violates the triangle inequality.

    Raises ``ValueError`` for an empty sentence, a vector of zeros, numbers that are not finite and shapes that do not
    fit; ``UserError`` where POT is not installed.
    Source: Yokoi et al., "Word Rotator's Distance", 2020, section 4.
    """
    return min(2.0, _cost(rotators_problem(x, y)))


def transport_plan(problem: Problem) -> Vectors:
    """Return the cheapest plan [n, m] for ``movers_problem`` or ``rotators_problem``: the weight of each move.

    Its rows add up to the first sentence's weights and its columns to the second's. Solved by network simplex.
    Raises ``UserError`` where POT is not installed.
    """
    plan, log = _pot().emd(problem.x_weights, problem.y_weights, problem.cost, numItermax=_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport was not solved: {log['warning']}")
    return np.asarray(plan)


def _cost(problem: Problem) -> float:
    return max(0.0, float((transport_plan(problem) * problem.cost).sum()))


def _pot() -> ModuleType:
    # Imported at the first distance, since it imports scipy, and torch if installed.
    return optional_module("ot", "transport", "exact optimal transport (POT)")
