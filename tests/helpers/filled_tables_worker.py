"""Products with tables of 281 and 320 pieces on the fake CUDA: python filled_tables_worker.py FOLDER.

The folder gets filled.json: for each computation and size how far it is from the processor's, and the sizes of its
products that are about as long as the table.
"""

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2s.batch import IGNORED
from s2s.inference.packed_model import PackedModel
from s2s.losses.divergence_loss import Shares, divergence_at, divergence_loss, paired_loss
from s2s.losses.terms import row_divergences
from s2s.losses.vocabulary_loss import vocabulary_loss
from s2s.model import output_rows
from s2s.model.architecture import Architecture
from s2s.model.transformer import PrefixTransformer

SIZES = (281, 320)
"""Of tables: one that is filled up to the other, which stays as it is."""
COUNT = 24
WIDTH = 16


class Products(TorchDispatchMode):
    """Collects the sizes of the matrices of all products, those of their results too."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = set[int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.sizes |= {
                size for part in tree_leaves((args, result)) if isinstance(part, Tensor) for size in part.shape
            }
        return result


def cross_entropy(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:
    return vocabulary_loss(*model.output(hidden), labels, 0.1)[0]


def frozen_table(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:
    output = model.output(hidden)
    return vocabulary_loss(output.hidden, output.weight.detach(), output.bias.detach(), labels, 0.0)[0]


def two_views(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:
    return paired_loss(model.output(hidden), labels.clamp(min=0), Shares(0.5, 0.25, 0.7), 0.1)[0]


def divergence(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    teachers = [model.output(hidden.detach().flip(0)), model.output(2 * hidden.detach())]
    weights = torch.linspace(0.1, 1, len(hidden)).to(hidden)
    return divergence_loss(model.output(hidden), teachers, weights, row_divergences, 2.0)


def from_constants(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    return divergence_at(model, hidden.detach().flip(0), hidden)


def whole_scores(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(model.logits(hidden), labels.clamp(min=0), reduction="sum")


def other_table(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:
    """With a gradient of a gradient, as the gradient penalty has it."""
    table = 1.5 * model.token_table
    loss = torch.nn.functional.cross_entropy(model.logits(hidden, table), labels.clamp(min=0), reduction="sum")
    (slope,) = torch.autograd.grad(loss, table, create_graph=True)
    return loss + slope.square().sum()


def decoding(model: PrefixTransformer, hidden: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    """The log-probabilities of a packed model, which have no gradient: the rows' is taken in their place."""
    log_probs = PackedModel(model).log_probs(hidden.detach())
    assert log_probs.shape == (len(hidden), model.shape.vocabulary)
    return log_probs.square().sum() + hidden.sum()


COMPUTED: dict[str, Callable[[PrefixTransformer, Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "frozen_table": frozen_table,
    "two_views": two_views,
    "divergence": divergence,
    "from_constants": from_constants,
    "whole_scores": whole_scores,
    "other_table": other_table,
    "decoding": decoding,
}


def rows() -> list[str]:
    return list(COMPUTED)


def computed(name: str, model: PrefixTransformer) -> tuple[list[Tensor], set[int]]:
    """The number and its gradients, on the device of the model, and the sizes of products."""
    device, size = model.device, model.shape.vocabulary
    generator = torch.Generator().manual_seed(size)
    hidden = torch.randn(COUNT, WIDTH, generator=generator).to(device).requires_grad_()
    labels = torch.randint(size, (COUNT,), generator=generator).to(device)
    labels[::5] = IGNORED
    model.zero_grad()
    with Products() as products:
        loss = COMPUTED[name](model, hidden, labels)
        loss.backward()
    gradients = [part.grad for part in (hidden, *model.parameters()) if part.grad is not None]
    return [loss.detach(), *gradients], products.sizes


def main(folder: Path) -> None:
    output_rows.MANY = 1  # few rows are enough for numbers
    found = {}
    for size in SIZES:
        torch.manual_seed(size)
        shape = Architecture(vocabulary=size, layers=1, width=WIDTH, heads=2, feed_forward=2 * WIDTH, positions=20)
        model = PrefixTransformer(shape)
        there = copy.deepcopy(model).to("cuda")
        for name in COMPUTED:
            (ours, _), (theirs, sizes) = computed(name, model), computed(name, there)
            one, other = (torch.cat([part.double().cpu().flatten() for part in parts]) for parts in (ours, theirs))
            apart = float((other - one).norm() / one.norm())
            widths = sorted(length for length in sizes if length >= min(SIZES))
            found[f"{name} {size}"] = {"apart": apart, "widths": widths}
    Path(folder, "filled.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
