"""Cheap lower bounds of the transport distances, to rank many candidates before solving a few exactly."""

import numpy as np
from numpy.typing import ArrayLike

from s2s.metrics.transport.bags import Problem, Vectors, array, bags, movers_problem, rotators_problem


def word_centroid_distance(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Return the distance of the weighted means: at most ``word_movers_distance``, in O((n + m) D).

    || sum_i p_i x_i - sum_j q_j y_j ||, by Jensen's inequality. Arguments and errors are those of the distance.
    Source: Kusner et al., "From Word Embeddings To Document Distances", 2015, section 4.1.
    """
    first, second, x_shares, y_shares = bags(x, y, x_weights, y_weights)
    return float(np.linalg.norm(x_shares @ first - y_shares @ second))


def word_centroid_distance_article(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Return ``word_centroid_distance`` / sqrt(D): at most ``word_movers_distance_article``."""
    return word_centroid_distance(x, y, x_weights, y_weights) / array(x).shape[1] ** 0.5


def relaxed_word_movers_distance(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Return the larger mean distance to the nearest vector of the other sentence, in O(n m D).

    max(sum_i p_i min_j d(x_i, y_j), sum_j q_j min_i d(x_i, y_j)) over vectors with weight. Each term keeps the
    constraints of one sentence only, so it is at most ``word_movers_distance``, whose arguments and errors it has.
    Source: Kusner et al., 2015, section 4.2.
    """
    return _relaxed(movers_problem(x, y, x_weights, y_weights))


def relaxed_word_rotators_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Return the same relaxation of ``word_rotators_distance``, with its arguments and errors."""
    return min(2.0, _relaxed(rotators_problem(x, y)))


def word_rotators_bound(x: ArrayLike, y: ArrayLike) -> float:
    """Return half the squared distance of the norm-weighted mean directions: at most ``word_rotators_distance``.

    1/2 || sum_i x_i / Z - sum_j y_j / Z' ||^2, where Z and Z' are the sums of the norms: 1 - cosine is half the squared
    distance of two directions, and the square is convex. Arguments and errors are those of the distance.
    Source: Su Jianlin's article 7388 on WMD and WRD, 2020.
    """
    rotators_problem(x, y)
    first, second, *_ = bags(x, y)
    return float(((_resultant(first) - _resultant(second)) ** 2).sum() / 2)


def _resultant(vectors: Vectors) -> Vectors:
    return np.asarray(vectors.sum(axis=0) / np.linalg.norm(vectors, axis=1).sum())


def _relaxed(problem: Problem) -> float:
    cost, rows, columns = problem
    to_y = rows @ cost[:, columns > 0].min(axis=1)
    to_x = columns @ cost[rows > 0].min(axis=0)
    return float(max(to_y, to_x))
