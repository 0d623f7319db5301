"""Sentences as bags of weighted vectors, checked, and the costs of moving one vector onto another."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vectors = NDArray[np.float64]

_ROUNDING = 1e-5
"""Largest distance of a sum of weights from 1; float32 weights do not add up exactly."""


class Bags(NamedTuple):
    """Two sentences as vectors, [n, D] and [m, D], and the weight of each vector in its sentence, [n] and [m]."""

    x: Vectors
    y: Vectors
    x_weights: Vectors
    y_weights: Vectors


class Problem(NamedTuple):
    """A transport problem: the cost [n, m] of each move, the supply [n] and the demand [m]."""

    cost: Vectors
    x_weights: Vectors
    y_weights: Vectors


def bags(x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None) -> Bags:
    """Return two sentences with given or equal weights, in float64.

    Raises ``ValueError`` for an empty sentence, other shapes, numbers that are not finite, and weights that are
    negative or do not add up to 1.
    """
    first, second = _vectors(x, "x"), _vectors(y, "y")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y: vectors of different widths, {first.shape[1]} and {second.shape[1]}")
    shares = _weights(x_weights, len(first), "x_weights"), _weights(y_weights, len(second), "y_weights")
    return Bags(first, second, *shares)


def movers_problem(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> Problem:
    """Return the word mover's problem: Euclidean distances, equal weights unless given; errors as in ``bags``."""
    first, second, *weights = bags(x, y, x_weights, y_weights)
    return Problem(_distances(first, second), *weights)


def rotators_problem(x: ArrayLike, y: ArrayLike) -> Problem:
    """Return the word rotator's problem: 1 - cosine, as half the squared distance of the directions; weights by norm.

    Raises ``ValueError`` as ``bags``, and for a vector of zeros.
    """
    first, second, *_ = bags(x, y)
    (x_units, x_weights), (y_units, y_weights) = _directions(first, "x"), _directions(second, "y")
    return Problem(_distances(x_units, y_units) ** 2 / 2, x_weights, y_weights)


def array(values: ArrayLike) -> Vectors:
    """Return numbers, or a tensor of any device and type, as float64."""
    # numpy reads neither tensors on a GPU nor bfloat16. Asking for "detach" avoids an import of torch.
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    return np.asarray(values, dtype=np.float64)


def _vectors(values: ArrayLike, name: str) -> Vectors:
    vectors = array(values)
    if not vectors.size:
        raise ValueError(f"{name}: an empty sentence, of shape {vectors.shape}")
    if vectors.ndim != 2:
        raise ValueError(f"{name}: a sentence is an array [tokens, width], not of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name}: vector {_first(~np.isfinite(vectors).all(axis=1))} is not finite")
    return vectors


def _weights(values: ArrayLike | None, count: int, name: str) -> Vectors:
    if values is None:
        return np.full(count, 1 / count)
    weights = array(values)
    if weights.shape != (count,):
        raise ValueError(f"{name}: one weight for each of {count} vectors, not of shape {weights.shape}")
    share = np.isfinite(weights) & (weights >= 0)
    if not share.all():
        raise ValueError(f"{name}: weight {_first(~share)} is negative or not finite")
    if abs(weights.sum() - 1) > _ROUNDING:
        raise ValueError(f"{name}: the weights add up to {weights.sum():g}, not to 1")
    return weights / weights.sum()


def _directions(vectors: Vectors, name: str) -> tuple[Vectors, Vectors]:
    norms = np.linalg.norm(vectors, axis=1)
    if not norms.all():
        raise ValueError(f"{name}: vector {_first(norms == 0)} is zero and has no direction")
    return vectors / norms[:, None], norms / norms.sum()


def _distances(x: Vectors, y: Vectors) -> Vectors:
    """Return Euclidean distances [n, m]."""
    # By differences: |x|^2 + |y|^2 - 2xy would lose half of the digits of short distances.
    return _distance_function()(x, y)


@cache
def _distance_function() -> Callable[[Vectors, Vectors], Vectors]:
    # scipy takes a fifth of numpy's time. It is installed with POT, and the bounds need neither.
    try:
        cdist: Callable[[Vectors, Vectors], Vectors] = import_module("scipy.spatial.distance").cdist
    except ImportError:
        return distances_by_rows
    return cdist


def distances_by_rows(x: Vectors, y: Vectors) -> Vectors:
    """Return Euclidean distances [n, m] without scipy."""
    return np.stack([np.linalg.norm(y - vector, axis=1) for vector in x])


def _first(wrong: ArrayLike) -> int:
    return int(np.argmax(wrong))
