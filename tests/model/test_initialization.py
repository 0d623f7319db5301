"""What models start from: variances and lengths in closed form, geometry of random matrices, and the report."""

import math
import subprocess
import sys

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.model import Architecture, PrefixTransformer
from s2s.model.attention import Slots
from s2s.model.attention_scores import Columns
from s2s.model.initialization import INITIALIZATIONS, initialise, left_by_cut, truncated_normal_
from s2s.model.initialization.__main__ import main
from s2s.model.initialization.report import depths, matrices, mean_cosine
from s2s.recipe.build import build_model
from s2s.recipe.recipe import Recipe

VARIANCES = {
    "bert": lambda outputs, inputs: 0.7737413 * 0.02**2,  # noqa: ARG005
    "xavier": lambda outputs, inputs: 2 / (inputs + outputs),
    "he": lambda outputs, inputs: 2 / inputs,  # noqa: ARG005
    "lecun": lambda outputs, inputs: 1 / inputs,  # noqa: ARG005
}
WIDTH, HEADS = 64, 2


def model_of(name="xavier", seed=0, **shape):
    model = PrefixTransformer(Architecture(50, layers=2, width=WIDTH, heads=HEADS, feed_forward=4 * WIDTH, **shape))
    torch.manual_seed(seed)
    initialise(model, name)
    return model


def drawn(name, outputs, inputs, seed=0):
    torch.manual_seed(seed)
    weight = torch.empty(outputs, inputs, dtype=torch.float64)
    INITIALIZATIONS[name].fill(weight)
    return weight


@given(cut=st.floats(0.3, 5))
@settings(deadline=None, max_examples=20)
def test_the_variance_that_a_cut_leaves_is_an_integral(cut):
    x, step = numpy.linspace(-cut, cut, 200_001, retstep=True)
    density = numpy.exp(-x * x / 2)
    assert math.isclose(left_by_cut(cut) ** 2, (x * x * density).sum() / density.sum(), rel_tol=1e-3)
    assert step < 1e-4


def test_bert_s_cut_leaves_the_published_share():
    assert math.isclose(left_by_cut(2) ** 2, 0.7737413, abs_tol=1e-7)
    assert math.isclose(left_by_cut(2), 0.87962566, abs_tol=1e-8)


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize(("outputs", "inputs"), [(300, 300), (600, 150), (150, 600)])
def test_variances_are_those_of_the_law_after_the_cut(name, outputs, inputs):
    weight, variance = drawn(name, outputs, inputs), VARIANCES[name](outputs, inputs)
    # The fourth moment of the cut normal is below the normal's, so 5 deviations of the estimate are at most this.
    assert abs(weight.square().mean() / variance - 1) < 5 * math.sqrt(2 / weight.numel())
    assert abs(weight.mean()) < 5 * math.sqrt(variance / weight.numel())
    assert weight.abs().max() <= 2 * math.sqrt(variance) / left_by_cut(2)


def test_entries_of_the_gram_matrix_differ_from_the_identity_by_chance():
    size = 400
    for fill, fourth in ((torch.nn.init.normal_, 3.0), (torch.nn.init.uniform_, 1.8)):
        torch.manual_seed(0)
        weight = torch.empty(size, size, dtype=torch.float64)
        if fourth == 3.0:
            fill(weight, std=size**-0.5)
        else:
            fill(weight, -((3 / size) ** 0.5), (3 / size) ** 0.5)
        error = (weight.T @ weight - torch.eye(size)).square()
        assert math.isclose(error.diagonal().mean(), (fourth - 1) / size, rel_tol=0.4)
        assert math.isclose(error.mean(), (1 - 1 / size) / size + (fourth - 1) / size**2, rel_tol=0.03)


def test_a_square_random_matrix_is_orthogonal_by_entries_only():
    weight, other = drawn("lecun", 400, 400), drawn("orthogonal", 400, 400)
    singular = torch.linalg.svdvals(weight)
    assert singular.min() < 0.05
    assert 1.9 < singular.max() < 2.1
    torch.testing.assert_close(torch.linalg.svdvals(other), torch.ones(400).double())
    x = torch.randn(400, dtype=torch.float64)
    assert math.isclose((weight @ x).norm() ** 2 / x.norm() ** 2, 1, abs_tol=5 * math.sqrt(2 / 400))
    for _ in range(100):
        x = other @ x / x.norm()
    assert math.isclose(x.norm(), 1, rel_tol=1e-9)


def test_a_signal_keeps_its_norm_through_48_orthogonal_layers():
    x = start = torch.randn(96, 7, dtype=torch.float64)
    for layer in range(48):
        x = drawn("orthogonal", 96, 96, layer) @ x
    assert (x.norm(dim=0) / start.norm(dim=0) - 1).abs().max() < 0.01


@pytest.mark.parametrize("name", ["bert", "xavier", "he", "lecun"])
def test_cut_normals_have_the_variance_asked_for_to_a_hundredth(name):
    assert math.isclose(drawn(name, 1500, 1500).var(), VARIANCES[name](1500, 1500), rel_tol=0.01)


@pytest.mark.parametrize(("outputs", "inputs"), [(30, 12), (12, 30), (20, 20)])
def test_orthogonal_maps_have_orthonormal_columns_or_rows(outputs, inputs):
    weight = drawn("orthogonal", outputs, inputs)
    gram = weight.T @ weight if outputs >= inputs else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(min(outputs, inputs)).double())


def test_a_rectifier_after_he_keeps_the_squared_length_on_average():
    x = torch.randn(512, dtype=torch.float64)
    ratios = [(drawn("he", 512, 512, seed) @ x).relu().square().sum() / x.square().sum() for seed in range(40)]
    assert math.isclose(torch.stack(ratios).mean(), 1, abs_tol=5 * math.sqrt(5 / 512 / 40))


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_fused_maps_are_drawn_one_by_one(name):
    model = model_of(name, attention="dot,dot+dense", source_slots=9, target_slots=7)
    dot, mixed = (block.attention for block in model.blocks)
    blocks = [*dot.query_key_value.weight.chunk(3), *mixed.parts["dot"].query_key.weight.chunk(2), mixed.value.weight]
    for block in blocks:
        if name == "orthogonal":
            torch.testing.assert_close(block @ block.T, torch.eye(WIDTH), rtol=0, atol=1e-5)
        else:
            assert abs(block.square().mean() / VARIANCES[name](WIDTH, WIDTH) - 1) < 5 * math.sqrt(2 / block.numel())


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_weights_are_a_function_of_the_seed(name):
    shape = {"attention": "fixed_random+dense+factorized_random", "source_slots": 9, "target_slots": 7}
    first, same, other = (model_of(name, seed, **shape).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    changed = {key for key in first if not torch.equal(first[key], other[key])}
    constant = {key for key in first if "norm" in key or "bias" in key or key.endswith("mixture")}
    assert changed == first.keys() - constant


def test_synthesised_scores_have_unit_variance_at_the_start():
    kinds = ("dense", "random", "fixed_random", "factorized_dense", "factorized_random")
    model = model_of(attention="+".join(kinds), source_slots=90, target_slots=30)
    attention, x = model.blocks[0].attention, torch.randn(1, 90, WIDTH)
    for kind, part in attention.parts.items():
        scores = part(x, Slots(0, 90), Columns(0, Slots(0, 90)), None, ())
        assert 0.5 < scores.square().mean() < 2, kind


def test_an_unknown_law_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"model\.initialization: no 'xavie'; did you mean 'xavier'"):
        Recipe.load("toy_copy", ["model.initialization=xavie"])


def test_the_report_measures_every_map():
    model = model_of("orthogonal", attention="dot,dot+dense", source_slots=9, target_slots=7)
    found = list(matrices(model))
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    assert sum(row.outputs * row.inputs for row in found) == sum(part.weight.numel() for part in linear)
    for row in found:
        assert math.isclose(row.ratio, min(1, (row.outputs / row.inputs) ** 0.5), rel_tol=1e-5)
        assert row.cosine < 1e-5
        assert math.isclose(row.least, row.most, rel_tol=1e-4)
    weight = torch.empty(200, 30)
    truncated_normal_(weight, 0.1)
    assert math.isclose(mean_cosine(weight.T), 200**-0.5, rel_tol=0.1)
    assert [depth.layer for depth in depths(model)] == [0, 1, 2]


def test_the_signal_through_depth_is_that_of_a_pass():
    model = model_of()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (8, 64), generator=generator)
    rows = model.eval().embedding(model.words(ids), torch.arange(64)[None], segment=0)
    found = depths(model.train())
    assert model.training
    model.eval()
    for depth, block in zip(found, [None, *model.blocks], strict=True):
        if block is not None:
            rows, _ = block(rows, torch.zeros(8, 1, 1, 64))
        assert math.isclose(depth.signal, rows.detach().norm(dim=-1).mean(), rel_tol=1e-4)


def test_a_recipe_s_model_is_a_function_of_its_seed_and_size():
    recipe = Recipe.load("toy_copy", ["model.attention=random"])
    vocabulary, objective = recipe.build()
    torch.manual_seed(5)
    model, _ = build_model(recipe, vocabulary.size, vocabulary.keep)
    state = objective.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_the_command_prints_tables_and_draws_where_it_can(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert main(["recipe=toy_copy", f"picture={picture}", "model.initialization=lecun"]) == 0
    printed = capsys.readouterr().out
    assert "blocks.1.attention.query_key_value[2]" in printed
    missing = "no picture: the picture needs the package matplotlib: pip install -e '.[plots]'"
    assert picture.exists() != (missing in printed)
    assert main(["recipe=toy_copi"]) == 2
    assert "did you mean 'toy_copy'" in capsys.readouterr().err
    assert main([]) == 2
    done = subprocess.run(
        [sys.executable, "-m", "s2s.model.initialization"], capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("usage: python -m s2s.model.initialization")
