"""Recipes with synthesised attention: refusals, saved runs, warm starts, precision, recomputation, sharding."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from naive import FIXED, gradient, objective_of
from slotted import CHOSEN, SLOTS, VARIANTS
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import BertModel

import s2s
from s2s.errors import UserError
from s2s.model import Architecture, ModelSettings, PrefixTransformer, pretrained
from s2s.model.initialization import initialise
from s2s.objective import Objective
from s2s.recipe.recipe import Recipe
from s2s.runs.metadata import read_metadata

TINY = ["model.width=16", "model.dropout=0.0", "data.size=260", "run.tokens=256", "run.evaluate_examples=2"]
variants = pytest.mark.parametrize("attention", VARIANTS)
chosen = pytest.mark.parametrize("attention", CHOSEN)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.attention=randon"], "model.attention: no variant 'randon'; did you mean 'random'?"),
        (["model.attention=dot+dens"], "model.attention: no variant 'dens'; did you mean 'dense'?"),
        (["model.attention=[dot,rando]"], "model.attention: no variant 'rando'; did you mean 'random'?"),
        (["model.attention=[]"], "model.attention: the list is empty; valid: dense, dot, "),
        (["model.attention=dot+"], "model.attention: no variant ''; valid: dense, dot, "),
        (["model.attention=random+random"], "model.attention: 'random+random' mixes a variant with itself"),
        (["model.source_slots=9"], "model.source_slots, model.target_slots: 'dot' has no slots; leave them null"),
        (["model.attention=random", "model.source_slots=0"], "model.source_slots: 0 is not at least 1"),
        (
            ["model.attention=random", "model.source_slots=15"],
            "data.max_source: 16 tokens, but model.source_slots is 15",
        ),
        (
            ["model.attention=random", "model.target_slots=15"],
            "data.max_target: 16 tokens, but model.target_slots is 15",
        ),
        (
            ["model.attention=dense", "search.max_length=17"],
            "search.max_length: 17 tokens, but model.target_slots is 16",
        ),
        (["model.attention=dense", "model.attention_rank=0"], "model.attention_rank: 0 is not at least 1"),
    ],
)
def test_settings_without_meaning_are_refused_when_the_recipe_is_read(overrides, message):
    with pytest.raises(UserError) as raised:
        Recipe.load("toy_copy", overrides)
    assert message in str(raised.value)


def test_a_list_and_a_line_name_the_same_layers():
    listed, lined = (
        Recipe.load("toy_copy", [f"model.attention={text}"]) for text in ("[dot, dense + random]", "dot,dense+random")
    )
    assert listed == lined
    assert listed.model.attention == "dot,dense+random"
    assert "model.attention: dot -> dot,dense+random" in s2s.recipe.recipe.differences(listed, Recipe.load("toy_copy"))
    with pytest.raises(UserError, match=r"model\.attention: 2 layers are given, but model.layers is 3"):
        Architecture(9, layers=3, attention="dot,random", **SLOTS)
    with pytest.raises(UserError, match=r"'random' needs model\.source_slots and model\.target_slots, not 0 and 0"):
        Architecture(9, attention="random")


@variants
def test_an_architecture_read_back_builds_a_model_that_the_weights_fit(random_model, random_batch, attention):
    model, batch = random_model(attention=attention, **SLOTS), random_batch(FIXED)
    values = json.loads(json.dumps(asdict(model.shape)))
    with torch.device("meta"):
        other = PrefixTransformer(Architecture(**values))
    other.load_state_dict(model.state_dict(), assign=True)
    assert other.shape == model.shape
    assert torch.equal(*(objective_of(one.eval()).nll(batch) for one in (model, other)))


@pytest.mark.parametrize("attention", ["dense,random", "dot+fixed_random,factorized_dense+factorized_random"])
def test_a_run_is_saved_and_loaded_as_it_was(tmp_path, attention):
    recipe = Recipe.load("toy_copy", [*TINY, "run.steps=2", f"model.attention={attention}", f"run.folder={tmp_path}"])
    trained = s2s.fit(recipe)
    loaded = s2s.load(tmp_path)
    assert read_metadata(tmp_path).architecture == trained.model.shape
    assert isinstance(loaded.model, PrefixTransformer)
    assert (loaded.model.shape.source_slots, loaded.model.shape.target_slots) == (16, 16)
    state = trained.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert ("blocks.0.attention.parts.fixed_random.table" in state) == ("fixed_random" in attention)
    for found in (trained, loaded):
        assert found.generate(["a b c"], beams=2) == trained.generate(["a b c"], beams=2)
        with pytest.raises(UserError, match=r"search.max_length: 17 tokens, .* room for 16"):
            found.generate(["a b c"], max_length=17)


def warm(folder, attention):
    settings = ModelSettings(pretrained=str(folder), attention=attention)
    slots = {"source_slots": 11, "target_slots": 5} if attention != "dot" else {}
    found = pretrained.read(replace(settings, **slots), None)
    model = PrefixTransformer(found.architecture).eval()
    initialise(model)
    assert not model.load_state_dict(found.state, strict=False).unexpected_keys
    return model, found


def test_a_checkpoint_starts_the_dot_product_of_a_mixture(checkpoint, random_batch):
    torch.manual_seed(0)  # the random scores are drawn here, and must be seen beside the dot product's
    folder, _ = checkpoint(BertModel)
    (plain, _), (mixed, found) = warm(folder, "dot"), warm(folder, "random+dot")
    batch, parts = random_batch(FIXED), [block.attention.mixture for block in mixed.blocks]
    rows = [model.source_hidden(batch.source, batch.source_lengths) for model in (plain, mixed)]
    assert not torch.allclose(*rows, rtol=1e-3, atol=1e-3)
    for part in parts:
        torch.testing.assert_close(part.softmax(dim=0)[1], torch.full((3,), 0.9526), rtol=0, atol=1e-4)
        part.data[1] = 2000.0
    torch.testing.assert_close(mixed.source_hidden(batch.source, batch.source_lengths), rows[0], rtol=1e-4, atol=1e-5)
    assert "not in the checkpoint: the scores of random+dot but for dot products" in found.report


def test_a_checkpoint_s_values_serve_scores_of_any_kind(checkpoint):
    folder, theirs = checkpoint(BertModel)
    model, found = warm(folder, "random")
    for block, layer in zip(model.blocks, theirs.encoder.layer, strict=True):
        assert torch.equal(block.attention.value.weight, layer.attention.self.value.weight)
        assert torch.equal(block.attention.output.weight, layer.attention.output.dense.weight)
    (unused,) = [line for line in found.report if line.startswith("not used of the checkpoint")]
    assert "encoder.layer.*.attention.self.query.weight" in unused
    assert "value" not in unused


@chosen
def test_bfloat16_is_float32_but_for_rounding(random_model, random_batch, attention):
    model, batch = random_model(dtype=torch.float32, attention=attention, **SLOTS), random_batch(FIXED)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            total = objective_of(model)(batch).total
        found.append((total, gradient(model, total)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.02, atol=0.02)
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.98


@chosen
def test_recomputation_changes_no_bit_and_the_penalty_s_double_backward_runs(random_model, random_batch, attention):
    batch, found = random_batch(FIXED), []
    for checkpointing in ("none", "block"):
        model = random_model(attention=attention, **SLOTS)
        model.load_state_dict(found[0][0] if found else model.state_dict())
        model.keep(checkpointing, 1)
        objective = objective_of(model, "gradient_penalty")
        losses = objective(batch)
        found.append((model.state_dict(), gradient(objective, losses.total)))
        assert losses.parts["penalty"] > 0
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][1].isfinite().all()


@pytest.fixture
def one_process(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@chosen
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # no block changes a row in place
def test_sharded_blocks_give_the_same_gradients(random_model, random_batch, one_process, attention):
    model, batch = random_model(attention=attention, **SLOTS), random_batch(FIXED)
    expected = gradient(model, objective_of(model, "fgm")(batch).total)
    objective: Objective = objective_of(model, "fgm")
    model.keep("block", 1)
    for block in model.blocks:
        fully_shard(block, mesh=one_process)
    fully_shard(objective, mesh=one_process)
    objective(batch).total.backward()
    grads = [parameter.grad for parameter in model.parameters()]
    found = torch.cat([(grad.full_tensor() if isinstance(grad, DTensor) else grad).flatten() for grad in grads])
    torch.testing.assert_close(found, expected)
