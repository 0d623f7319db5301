"""Table-wide FGM against a second model whose table is moved."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SHAPES,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_teacher_forcing,
    cross_entropy,
    distance,
    few,
    gradient,
    mean_over,
    objective_of,
    predict,
)

shapes = pytest.mark.parametrize("shape", SHAPES)
WEIGHTS = st.sampled_from([0.3, 0.5, 1.0])


@shapes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_fgm_of_the_article_moves_the_whole_table(random_model, random_batch, shape, sizes, seed, weight, smoothing):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)

    def plain(of):
        return mean_over(batch, lambda example: cross_entropy(predict(of, example), example.labels, smoothing))

    before, other, table = copy.deepcopy(model.state_dict()), copy.deepcopy(model), model.embedding.tokens.weight
    clean = plain(model)
    (pull,) = torch.autograd.grad(clean, table, retain_graph=True)
    other.embedding.tokens.weight.data += 0.8 * pull / (pull.norm() + 1e-8)
    adversarial = plain(other)
    objective = objective_of(model, "fgm_article", smoothing, weight=weight, epsilon=0.8)
    total = objective(batch).total
    torch.testing.assert_close(total, (1 - weight) * clean + weight * adversarial, rtol=1e-8, atol=1e-12)
    expected = (1 - weight) * gradient(model, clean) + weight * gradient(other, adversarial)
    assert distance(gradient(objective, total), expected) < 1e-8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fgm_of_the_article_differs_and_vanishes_with_its_strength(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    assert_other_than_teacher_forcing(objective_of(model, "fgm_article"), batch, 0.01)
    assert_teacher_forcing(objective_of(model, "fgm_article", weight=0.0), batch, exact=True)
    assert_teacher_forcing(objective_of(model, "fgm_article", epsilon=0.0), batch, exact=False)
