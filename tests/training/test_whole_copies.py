"""A model without weights holds none, and with another one's tensors and measures it is that one."""

import pytest
import torch
from foreign_models import FAMILIES, keys, randomise

from s2s.data import load
from s2s.model.backbones import without_weights
from s2s.objective import Objective
from s2s.recipe.build import build_objective, build_vocabulary
from s2s.recipe.recipe import Recipe
from s2s.training import sharding
from s2s.vocabulary import Vocabulary

SMALL = ["model.width=16", "model.layers=2", "model.heads=2", "model.attention=dense+random"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = Recipe.load("toy_copy", ["data.size=220"])
    return build_vocabulary(data, load(data.data))


@pytest.mark.parametrize("family", ["prefix_lm", *FAMILIES])
@torch.no_grad()
def test_a_copy_is_made_of_tensors_and_measures_alone(family: str, vocabulary: Vocabulary) -> None:
    recipe = Recipe.load("toy_copy", ["data.size=220", *(SMALL if family == "prefix_lm" else keys(family))])
    objective = build_objective(recipe, vocabulary)[0].eval()
    randomise(objective)
    copy = Objective(without_weights(objective.model.shape), recipe.objective).eval()
    assert all(tensor.is_meta for tensor in [*copy.parameters(), *copy.buffers()])
    sharding.give(copy, objective)
    assert not any(tensor.is_meta for tensor in [*copy.parameters(), *copy.buffers()])
    assert copy.state_dict().keys() == objective.state_dict().keys()
    batch = vocabulary.batch([("a b c", "a b c"), ("d e f g h", "h"), ("i", "j a j a")])
    assert copy.nll(batch) == objective.nll(batch)
    # It has tensors of its own name for name, so a tied table is one tensor here as well.
    names = [name for name, _ in objective.named_parameters()]
    assert [name for name, _ in copy.named_parameters()] == names
