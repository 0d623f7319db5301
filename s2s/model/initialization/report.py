"""A report on initial weights: each matrix's geometry, and the signal's length from layer to layer."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from s2s.model.attention import FusedLinear
from s2s.model.transformer import PrefixTransformer

ROWS, COLUMNS = 8, 64


class Matrix(NamedTuple):
    """The geometry of one linear map.

    ``ratio`` is the root mean square of ||W x|| / ||x|| over all directions x, ||W||_F / sqrt(inputs). ``cosine`` is
    the root mean square of the cosines between its columns, or its rows where these are fewer; independent directions
    of their dimension have ``chance``, an orthogonal matrix 0. ``least`` and ``most`` are its singular values' ends.
    """

    name: str
    outputs: int
    inputs: int
    ratio: float
    cosine: float
    chance: float
    least: float
    most: float


class Depth(NamedTuple):
    """After the embedding (layer 0) or a layer: the mean length of a row and of the loss's gradient at it."""

    layer: int
    signal: float
    gradient: float


def matrices(module: nn.Module) -> Iterator[Matrix]:
    """Yield the geometry of each linear map of a module; maps that share a matrix one by one."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            maps = part.maps if isinstance(part, FusedLinear) else 1
            for number, block in enumerate(part.weight.detach().chunk(maps)):
                yield _matrix(f"{name}[{number}]" if maps > 1 else name, block)


def _matrix(name: str, weight: Tensor) -> Matrix:
    outputs, inputs = weight.shape
    # More than n vectors of R^n cannot all be orthogonal, so the shorter side of the matrix is compared.
    few = weight.T if outputs >= inputs else weight
    singular = torch.linalg.svdvals(weight)
    return Matrix(
        name,
        outputs,
        inputs,
        ratio=float(weight.norm() / inputs**0.5),
        cosine=mean_cosine(few),
        chance=few.shape[1] ** -0.5,
        least=float(singular.min()),
        most=float(singular.max()),
    )


def mean_cosine(directions: Tensor) -> float:
    """Return the root mean square of the cosines between different rows of [n, d]; 0 for a single row."""
    cosines = nn.functional.normalize(directions, dim=1) @ nn.functional.normalize(directions, dim=1).T
    pairs = len(cosines) * (len(cosines) - 1)
    return float((cosines.fill_diagonal_(0).square().sum() / max(1, pairs)).sqrt())


def depths(model: PrefixTransformer) -> list[Depth]:
    """Return lengths over random sources, without dropout; the loss is a random direction of the last rows."""
    generator = torch.Generator().manual_seed(0)
    columns = min(COLUMNS, model.shape.positions, model.shape.source_slots or COLUMNS)
    ids = torch.randint(model.shape.vocabulary, (ROWS, columns), generator=generator)
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, object]) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    hooks = [part.register_forward_hook(keep) for part in (model.embedding, *model.blocks)]
    training = model.training
    last = model.eval().source_hidden(ids, torch.full((ROWS,), columns))
    for hook in hooks:
        hook.remove()
    model.train(training)
    gradients = torch.autograd.grad((last * torch.randn(last.shape, generator=generator)).sum(), kept)
    lengths = [[rows.norm(dim=-1).mean().item() for rows in layers] for layers in (kept, gradients)]
    return [Depth(layer, *pair) for layer, pair in enumerate(zip(*lengths, strict=True))]
