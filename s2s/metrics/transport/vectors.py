"""Token vectors of texts (rows of an embedding table, centred or whitened over a corpus), and distances by them."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2s.metrics.transport.bags import Vectors, array

Embed = Callable[[str], ArrayLike]
"""Text to the vectors of its tokens, [n, D]."""

Distance = Callable[[ArrayLike, ArrayLike], float]
"""Vectors [n, D] of a hypothesis and [m, D] of its reference to a distance."""

Change = Callable[[ArrayLike], Vectors]
"""Vectors [n, D] to others of the same tokens, [n, D']."""


def table_embedding(table: ArrayLike, encode: Callable[[str], Sequence[int]]) -> Embed:
    """Return a function that looks a text's tokens up in a table [V, D], by the ids of ``encode``; no ids give [0, D].

    For a trained run: ``table_embedding(run.model.token_table, run.vocabulary.encode)``.
    """
    rows = array(table)
    return lambda text: rows[np.asarray(encode(text), dtype=np.int64)]


def changed(embed: Embed, *changes: Change) -> Embed:
    """Return ``embed`` followed by changes such as ``centring`` or ``whitening``, in this order."""

    def embed_changed(text: str) -> ArrayLike:
        vectors = embed(text)
        for change in changes:
            vectors = change(vectors)
        return vectors

    return embed_changed


def centring(corpus: Iterable[ArrayLike]) -> Change:
    """Return a function that subtracts the mean of a corpus's vectors, an iterable of [n, D].

    Raises ``ValueError`` for a corpus without vectors.
    """
    mean, _ = _moments(corpus)
    return lambda vectors: array(vectors) - mean


def whitening(corpus: Iterable[ArrayLike], width: int | None = None) -> Change:
    """Return a function under which a corpus's vectors, an iterable of [n, D], have mean 0 and identity covariance.

    x to (x - mean) U L^(-1/2), where U L U^T is the corpus's covariance (divided by the number of vectors), eigenvalues
    in falling order; ``width`` keeps the first columns. Every token counts, so frequent ones weigh more.
    Raises ``ValueError`` for a corpus without vectors, and where they vary in fewer than ``width`` (or D) directions.
    Source: Su et al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval", 2021, section 3.
    """
    mean, covariance = _moments(corpus)
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = variances[::-1], directions[:, ::-1]
    kept = len(variances) if width is None else width
    rank = int((variances > variances[0] * len(variances) * np.finfo(np.float64).eps).sum())
    if not 1 <= kept <= rank:
        raise ValueError(f"width: {kept} directions, but the vectors of the corpus vary in {rank}")
    factors = directions[:, :kept] / np.sqrt(variances[:kept])
    return lambda vectors: (array(vectors) - mean) @ factors


def _moments(corpus: Iterable[ArrayLike]) -> tuple[Vectors, Vectors]:
    """Return mean [D] and covariance [D, D], updated sentence by sentence (Chan et al., 1979)."""
    # Scatter around a running mean: a mean of squares minus the squared mean would cancel.
    count, mean, scatter = 0, np.zeros(()), np.zeros(())
    for vectors in filter(len, map(array, corpus)):
        total = count + len(vectors)
        mean_here = vectors.mean(axis=0)
        shift, centred = mean_here - mean, vectors - mean_here
        scatter = scatter + centred.T @ centred + np.multiply.outer(shift, shift) * count * len(vectors) / total
        mean, count = mean + shift * len(vectors) / total, total
    if not count:
        raise ValueError("corpus: no vectors to take a mean of")
    return mean, scatter / count


def corpus_distances(
    hypotheses: Sequence[str],
    references: Sequence[str],
    embed: Embed,
    distance: Distance,
    on_progress: Callable[[int], object] = lambda _: None,
    empty: float | None = None,
) -> Vectors:
    """Return the distance [N] of each hypothesis from its reference, for a mean or a paired test.

    ``distance`` is ``word_rotators_distance``, ``word_movers_distance``, one of their bounds or your own function.
    ``on_progress`` gets the number of pairs done since its last call. A pair with a text of no tokens has the distance
    ``empty``; without it, it is an error.

    Raises ``ValueError`` for texts that do not pair, and with the number of the pair, from 1, for vectors that
    ``distance`` refuses.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    distances = np.empty(len(hypotheses))
    for index, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        x, y = array(embed(hypothesis)), array(embed(reference))
        try:
            distances[index] = empty if empty is not None and not (len(x) and len(y)) else distance(x, y)
        except ValueError as error:
            raise ValueError(f"pair {index + 1}: {error}") from error
        on_progress(1)
    return distances
