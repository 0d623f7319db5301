"""Vectors of the tokens of a text: from an embedding table, centred or whitened over a corpus."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2s.metrics.transport.bags import Vectors, array

Embed = Callable[[str], ArrayLike]
"""Text to the vectors of its tokens, [n, D]."""

Change = Callable[[ArrayLike], Vectors]
"""Vectors [n, D] to others of the same tokens, [n, D']."""


def table_embedding(table: ArrayLike, encode: Callable[[str], Sequence[int]]) -> Embed:
    """Look the tokens of a text up in a table [V, D], by the ids that ``encode`` gives; no ids give [0, D].

    A trained run's: ``table_embedding(run.model.embedding.tokens.weight, run.vocabulary.encode)``.
    """
    rows = array(table)
    return lambda text: rows[np.asarray(encode(text), dtype=np.int64)]


def changed(embed: Embed, *changes: Change) -> Embed:
    """``embed`` followed by changes such as ``centring`` or ``whitening``, in their order."""

    def embed_changed(text: str) -> ArrayLike:
        vectors = embed(text)
        for change in changes:
            vectors = change(vectors)
        return vectors

    return embed_changed


def centring(corpus: Iterable[ArrayLike]) -> Change:
    """Subtract the mean of a corpus's vectors, an iterable of [n, D].

    Raises ``ValueError`` for a corpus without vectors.
    """
    mean, _ = _moments(corpus)
    return lambda vectors: array(vectors) - mean


def whitening(corpus: Iterable[ArrayLike], width: int | None = None) -> Change:
    """Give a corpus's vectors, an iterable of [n, D], mean 0 and the covariance of the identity.

    x to (x - mean) U L^(-1/2), where U L U^T is the corpus's covariance (divided by the number of vectors), eigenvalues
    in falling order; ``width`` keeps the first columns. One vector stands for one token, so frequent ones weigh more.
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
    """Mean [D] and covariance [D, D], sentence by sentence, without the cancellation of a mean of squares."""
    count, mean, scatter = 0, np.zeros(()), np.zeros(())
    for vectors in filter(len, map(array, corpus)):
        total = count + len(vectors)
        own = vectors.mean(axis=0)
        shift, centred = own - mean, vectors - own
        scatter = scatter + centred.T @ centred + np.multiply.outer(shift, shift) * count * len(vectors) / total
        mean, count = mean + shift * len(vectors) / total, total
    if not count:
        raise ValueError("corpus: no vectors to take a mean of")
    return mean, scatter / count
