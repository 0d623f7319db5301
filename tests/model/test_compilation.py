"""Compiled blocks give the losses and gradients of plain ones, under the methods and with recomputation."""

from pathlib import Path

import pytest
import test_recomputation
import torch
from fake_devices import needs_torch_compile
from mitigations_worker import TINY, rows
from torch import Tensor
from torch._dynamo.utils import counters

from s2s.batch import Batch
from s2s.errors import UserError
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe
from s2s.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

Materials = tuple[Path, Vocabulary, Batch]
METHODS = ["", "random_replacement", "fgm", "vat", "free_lb", "r_drop", "teaforn", "mrt"]
# What torch.compile itself does: it uses what torch deprecates, and looks whether its inputs have gradients.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method:DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf"
)


def results(materials: Materials, name: str, *overrides: str) -> tuple[Tensor, Tensor]:
    folder, vocabulary, batch = materials
    row = rows(folder)[name] if name else ""
    recipe = Recipe.load("toy_copy", [*TINY, f"mitigations=[{row}]", *overrides])
    return test_recomputation.results(build_objective(recipe, vocabulary)[0], batch)


@needs_torch_compile
@pytest.mark.parametrize("name", METHODS)
def test_compiled_blocks_are_near_plain_ones(name: str, materials: Materials) -> None:
    loss, grads = results(materials, name)
    found, compiled = results(materials, name, "run.compile=true")
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    assert (compiled - grads).norm() < 1e-5 * grads.norm()
    assert counters["stats"]["unique_graphs"]


@needs_torch_compile
def test_recomputation_of_compiled_blocks_changes_no_bit(materials: Materials) -> None:
    overrides = ["run.compile=true", "model.dropout=0.1"]
    loss, grads = results(materials, "fgm", *overrides)
    again, found = results(materials, "fgm", *overrides, "run.checkpointing=block")
    assert torch.equal(again, loss)
    assert torch.equal(found, grads)


def test_what_cannot_be_compiled_is_refused() -> None:
    for kept in ("selective", "offload"):
        with pytest.raises(UserError, match=f"run.compile: .* not '{kept}'"):
            Recipe.load("toy_copy", ["run.compile=true", f"run.checkpointing={kept}"])
    with pytest.raises(UserError, match="first_order"):
        Recipe.load("toy_copy", ["run.compile=true", "mitigations=[{name: gradient_penalty}]"])
    row = "{name: gradient_penalty, first_order: true}"
    assert Recipe.load("toy_copy", ["run.compile=true", f"mitigations=[{row}]"]).run.compile
