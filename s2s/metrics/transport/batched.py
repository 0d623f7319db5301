"""Transport problems of batches of padded sentences, in torch and differentiable."""

from typing import NamedTuple

import torch
from torch import Tensor


class Problems(NamedTuple):
    """Costs [..., n, m] of each move, supplies [..., n] and demands [..., m]; weight 0 is padding."""

    cost: Tensor
    x_weights: Tensor
    y_weights: Tensor


def movers_problems(x: Tensor, y: Tensor, x_lengths: Tensor | None = None, y_lengths: Tensor | None = None) -> Problems:
    """Return the word mover's problems of sentences [..., n, D] and [..., m, D]: Euclidean distances, equal weights.

    ``x_lengths`` and ``y_lengths`` [...] are numbers of tokens without padding, n and m unless given; padding may hold
    any vectors. Where two vectors coincide the gradient is 0, one of the subgradients.
    Raises ``ValueError`` for an empty sentence, lengths beyond the width and shapes that do not fit.
    """
    (first, x_mask), (second, y_mask) = _padded(x, x_lengths, "x"), _padded(y, y_lengths, "y")
    return Problems(_distances(first, second), _equal(x_mask, first), _equal(y_mask, second))


def rotators_problems(
    x: Tensor, y: Tensor, x_lengths: Tensor | None = None, y_lengths: Tensor | None = None
) -> Problems:
    """Return the word rotator's problems of sentences [..., n, D] and [..., m, D]: 1 - cosine, weights by norm.

    Lengths and errors are those of ``movers_problems``, and a ``ValueError`` for a vector of zeros within a sentence.
    """
    (first, x_mask), (second, y_mask) = _padded(x, x_lengths, "x"), _padded(y, y_lengths, "y")
    (x_units, x_weights), (y_units, y_weights) = _directions(first, x_mask, "x"), _directions(second, y_mask, "y")
    # 1 - cosine as half the squared distance of unit vectors stays in [0, 2], and autocast computes it in float32.
    return Problems(_distances(x_units, y_units).square() / 2, x_weights, y_weights)


def _padded(vectors: Tensor, lengths: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Return the vectors in float32 or more, zero in padding, and the mask [..., n] of tokens."""
    if vectors.dim() < 2:
        raise ValueError(f"{name}: sentences are a tensor [..., tokens, width], not of shape {tuple(vectors.shape)}")
    width = vectors.shape[-2]
    if lengths is None:
        lengths = torch.full(vectors.shape[:-2], width, device=vectors.device)
    if lengths.shape != vectors.shape[:-2]:
        raise ValueError(f"{name}: sentences {tuple(vectors.shape[:-2])}, but lengths {tuple(lengths.shape)}")
    if bool((lengths < 1).any()) or not vectors.numel():
        raise ValueError(f"{name}: an empty sentence")
    if bool((lengths > width).any()):
        raise ValueError(f"{name}: a length of {int(lengths.max())}, but {width} columns")
    mask = torch.arange(width, device=vectors.device) < lengths.to(vectors.device)[..., None]
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return wide.masked_fill(~mask[..., None], 0), mask


def _equal(mask: Tensor, vectors: Tensor) -> Tensor:
    return mask.to(vectors.dtype) / mask.sum(dim=-1, keepdim=True)


def _directions(vectors: Tensor, mask: Tensor, name: str) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(vectors, dim=-1)
    if bool(((norms == 0) & mask).any()):
        raise ValueError(f"{name}: a vector of zeros has no direction")
    units = vectors / norms.masked_fill(~mask, 1)[..., None]
    return units, norms / norms.sum(dim=-1, keepdim=True)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"x and y: shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair")
    # Matrix products would be faster, but lose half of the digits of short distances.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
