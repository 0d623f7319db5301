"""A trial of a model of ``transformers`` when it is made or loaded: its answers here against its own whole forward.

So a family that nobody has tried here is either right or refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from s2s.errors import UserError, first_line
from s2s.model.backbone import Backbone, evaluating
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.model.backbones.foreign import ForeignBackbone

ROUNDING = 2000.0
"""The distance that rounding may explain, relative to the largest score, in units of the type's last digit: sums in
another order differ by tens of them, a wrong position or mask by thousands at least."""

STEPS = 3
"""Target columns that are decoded step by step as well."""


@contextmanager
def trial(shape: ForeignArchitecture) -> Iterator[None]:
    """Turn the errors of a family that does not know how to run so into a UserError."""
    try:
        yield
    except UserError:
        raise
    # Each family fails in its own way at what it does not know.
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"model: a {shape.model_type} cannot run as {shape.backbone}: {reason}") from error


def check(model: Backbone, source: int = 12, target: int = 6) -> None:
    """Compare the scores of a few random rows, of up to ``source`` and ``target`` tokens, with the model's own.

    The rows are padded, decoded as one batch in two copies, and step by step. Errors: a UserError with both figures.
    """
    if not isinstance(model, ForeignBackbone):
        return
    family = model.shape.model_type
    # At the lengths of the data, since windows and tables of positions end somewhere.
    source = max(2, min(source, model.shape.positions - 2))
    target = max(1, min(target, model.shape.room(source)))
    with trial(model.shape), evaluating(model):
        far, largest = _distance(model, [source, 1 + source // 3, 1], target)
    allowed = ROUNDING * torch.finfo(model.token_table.dtype).eps
    if not far <= allowed * largest:
        raise UserError(
            f"model: a {family} computes otherwise as {model.shape.backbone} here than in transformers: a score is off "
            f"by {far:.3g}, where rounding explains {allowed * largest:.3g}; it is refused"
        )


@torch.no_grad()
def _distance(model: ForeignBackbone, sources: list[int], width: int) -> tuple[float, float]:
    """Return the greatest distance of a score from the model's own, and the largest of these."""
    generator, columns = torch.Generator().manual_seed(0), max(sources)
    ids = torch.randint(1, model.shape.vocabulary, (len(sources), columns + width), generator=generator)
    source, target = ids.to(model.device).split([columns, width], dim=1)
    memory = model.encode(source, torch.tensor(sources, device=model.device))
    # The first copy is another target: nothing of it may reach the second.
    hidden = model.decode(torch.cat([target.flip(1), target], dim=1), memory, copies=2)[:, width:]
    cache, steps = None, []
    for column in range(min(STEPS, width)):
        rows, cache = model.step(target[:, column], column, memory, cache)
        steps.append(rows)
    scores = [model.logits(hidden), model.logits(torch.stack(steps, dim=1))]
    if (output := model.output(hidden)) is not None:
        scores.append(torch.nn.functional.linear(*output))
    far, largest = [], []
    for row, length in enumerate(sources):
        whole = _whole(model, source[row, :length], target[row])
        largest.append(whole.abs().max())
        far += [(part[row] - whole[: part.shape[1]]).abs().max() for part in scores]
    return float(torch.stack(far).max()), float(torch.stack(largest).max())


def _whole(model: Any, source: Tensor, target: Tensor) -> Tensor:
    """Return the scores [T, V] of a target that the model's own forward gives for one example."""
    if model.shape.backbone == "causal_lm":
        whole = torch.cat([source, target])[None]
        return model.inner(input_ids=whole).logits[0, len(source) :]
    prefix = torch.tensor(model.shape.prefix, dtype=torch.long, device=target.device)
    decoder = torch.cat([prefix, target])[None]
    scores: Tensor = model.inner(input_ids=source[None], decoder_input_ids=decoder).logits[0, len(prefix) :]
    return scores
