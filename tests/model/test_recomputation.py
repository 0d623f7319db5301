"""What blocks keep for their backward changes neither losses nor gradients, with dropout and under every method."""

from pathlib import Path

import pytest
import torch
from mitigations_worker import EXTRA, TINY, gradient, rows
from torch import Tensor

from s2s.batch import Batch
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.model.activation_checkpointing import CHECKPOINTING
from s2s.objective import Objective
from s2s.recipe.build import build_objective
from s2s.recipe.recipe import Recipe
from s2s.runs.checkpoints import load_model
from s2s.vocabulary import Vocabulary

Materials = tuple[Path, Vocabulary, Batch]


def objective(row: str, vocabulary: Vocabulary, *overrides: str) -> Objective:
    dropout = ["model.dropout=0.1", f"mitigations=[{row}]"]
    return build_objective(Recipe.load("toy_copy", [*TINY, *dropout, *overrides]), vocabulary, None, load_model)[0]


def results(module: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    losses = module(batch, 1)
    losses.total.backward()
    return losses.total.detach(), gradient(module)


@pytest.mark.parametrize("name", [*MITIGATIONS, *EXTRA])
def test_recomputation_changes_no_bit(name: str, materials: Materials) -> None:
    folder, vocabulary, batch = materials
    row = rows(folder)[name]
    loss, grads = results(objective(row, vocabulary), batch)
    assert grads.any()
    for kept in ("block", "selective"):
        again, found = results(objective(row, vocabulary, f"run.checkpointing={kept}"), batch)
        assert torch.equal(again, loss)
        assert torch.equal(found, grads)


@pytest.mark.parametrize("kept", CHECKPOINTING)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_any_block_may_recompute(kept: str, every: int, materials: Materials) -> None:
    _, vocabulary, batch = materials
    loss, grads = results(objective("", vocabulary), batch)
    overrides = [f"run.checkpointing={kept}", f"run.checkpointing_every={every}"]
    module = objective("", vocabulary, *overrides)
    again, found = results(module, batch)
    assert torch.equal(again, loss)
    assert torch.equal(found, grads)
    changed = [block.policy is CHECKPOINTING[kept] for block in module.model.blocks]
    assert changed[every - 1 :: every] == [True] * len(changed[every - 1 :: every])


def saved_bytes(module: Objective, batch: Batch) -> int:
    """The bytes that a forward keeps for the backward."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = module(batch, 1)
    assert losses.total.requires_grad
    return sum(size for place, size in kept.items() if place not in own)


def test_blocks_that_recompute_keep_less(materials: Materials) -> None:
    _, vocabulary, batch = materials
    deep = ("model.layers=12", "model.width=64")
    found = {
        kept: saved_bytes(objective("", vocabulary, *deep, f"run.checkpointing={kept}"), batch)
        for kept in ("none", "block")
    }
    assert found["block"] < found["none"] / 4


def test_what_is_cached_of_a_recomputing_block_keeps_nothing_else(materials: Materials) -> None:
    _, vocabulary, batch = materials
    model = objective("", vocabulary, "run.checkpointing=block").model
    x, mask = model.embed_source(batch.source, batch.source_lengths)
    _, cached = model.blocks[0](x, mask)
    for part in cached:
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_nothing_is_kept_without_gradients(materials: Materials) -> None:
    _, vocabulary, batch = materials
    with torch.no_grad():
        for kept in CHECKPOINTING:
            module = objective("", vocabulary, f"run.checkpointing={kept}").eval()
            assert not module.nll(batch).requires_grad


def test_an_unknown_row_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"run\.checkpointing: no 'blok'; did you mean 'block'"):
        Recipe.load("toy_copy", ["run.checkpointing=blok"])
