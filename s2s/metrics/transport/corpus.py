"""Transport distances of generated texts from their references."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2s.metrics.transport.bags import Vectors, array
from s2s.metrics.transport.vectors import Embed

Distance = Callable[[ArrayLike, ArrayLike], float]
"""Vectors [n, D] of a hypothesis and [m, D] of its reference to a distance."""


def corpus_distances(
    hypotheses: Sequence[str],
    references: Sequence[str],
    embed: Embed,
    distance: Distance,
    on_progress: Callable[[int], object] = lambda _: None,
    empty: float | None = None,
) -> Vectors:
    """The distance [N] of each hypothesis from its reference, for a mean or a paired test.

    ``distance`` is ``word_rotators_distance``, ``word_movers_distance``, one of their bounds or the caller's own.
    ``on_progress`` gets the number of pairs done since its last call: with rich,
    ``lambda pairs: progress.advance(task, pairs)``. A pair with a text of no tokens is worth ``empty``; without it, it
    is an error.

    Raises ``ValueError`` for texts that do not pair, and with the number of the pair, from 1, for what ``distance``
    refuses.
    """
    _check_pairs(hypotheses, references)
    distances = np.empty(len(hypotheses))
    for index, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        x, y = array(embed(hypothesis)), array(embed(reference))
        distances[index] = _distance(index, x, y, distance, empty)
        on_progress(1)
    return distances


def _distance(index: int, x: Vectors, y: Vectors, distance: Distance, empty: float | None) -> float:
    if empty is not None and not (len(x) and len(y)):
        return empty
    try:
        return distance(x, y)
    except ValueError as error:
        raise ValueError(f"pair {index + 1}: {error}") from error


def _check_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
