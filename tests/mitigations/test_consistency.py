"""Two views of one example: R-Drop against the same passes under the same dropout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_same,
    assert_teacher_forcing,
    cross_entropy,
    divergence,
    examples,
    few,
    gradient,
    objective_of,
    tokens_of,
)

from s2s.errors import UserError

scopes = pytest.mark.parametrize("scope", ["target", "all"])
SCALES = {"r_drop": 1 / 2, "r_drop_article": 1 / 4}
WEIGHTS = st.sampled_from([0.4, 1.0])
SMOOTHING = st.sampled_from([0.0, 0.2])


def chances_of(model, hidden, batch):
    """The log-probabilities of each example's places, row after row."""
    scores = model.logits(hidden).log_softmax(dim=-1)
    return [scores[example.row, : len(example.target)] for example in examples(batch)]


def two_views(model, batch, scope):
    """Two passes that differ in their dropout: of the whole sequence, or of the target after one encoded source."""
    if scope == "all":
        source, lengths, target = (torch.cat([part, part]) for part in batch[:3])
        hidden = model.decode(target, model.encode(source, lengths))
        return [chances_of(model, half, batch) for half in (hidden[: len(batch.target)], hidden[len(batch.target) :])]
    memory, width = model.encode(batch.source, batch.source_lengths), batch.target.shape[1]
    hidden = model.decode(torch.cat([batch.target, batch.target], dim=1), memory, copies=2)
    return [chances_of(model, half, batch) for half in (hidden[:, :width], hidden[:, width:])]


def formula(batch, views, weight, strength, smoothing):
    """(1 - weight) CE_1 + weight [(CE_1 + CE_2) / 2 + strength (KL_12 + KL_21)], a mean over the labels."""
    total = 0.0
    for example, seen, other in zip(examples(batch), *views, strict=True):
        first, second = (cross_entropy(view, example.labels, smoothing) for view in (seen, other))
        both = divergence(seen, other) + divergence(other, seen)
        total = total + (1 - weight) * first + weight * ((first + second) / 2 + strength * both)
    return total / tokens_of(batch)


@pytest.mark.parametrize("name", SCALES)
@scopes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, alpha=st.sampled_from([0.0, 1.0, 4.0]), smoothing=SMOOTHING)
@few
def test_r_drop_compares_two_dropouts(random_model, random_batch, name, scope, sizes, seed, weight, alpha, smoothing):
    model, batch = random_model(seed, dropout=0.3).train(), random_batch(sizes, seed)
    objective = objective_of(model, name, smoothing, scope=scope, weight=weight, alpha=alpha).train()
    torch.manual_seed(seed)
    views = two_views(model, batch, scope)
    expected = formula(batch, views, weight, alpha * SCALES[name], smoothing)
    torch.manual_seed(seed)
    losses = assert_same(objective, batch, expected)
    if alpha:
        assert losses.parts["divergence"] > 1e-4
    plain = sum(cross_entropy(view, example.labels) for view, example in zip(views[0], examples(batch), strict=True))
    torch.testing.assert_close(losses.parts["nll"], plain.detach() / tokens_of(batch), rtol=1e-9, atol=0)


def test_the_default_is_half_of_the_published_criterion_at_its_alpha_of_5(random_model, random_batch):
    """CE_1 + CE_2 + 5 (KL + KL) / 2, as the equation and fairseq's criterion have it, and Su's form takes its alpha."""
    model, batch = random_model(dropout=0.3).train(), random_batch(FIXED)
    torch.manual_seed(7)
    views, others = two_views(model, batch, "all")
    total = 0.0
    for example, first, second in zip(examples(batch), views, others, strict=True):
        total = total + cross_entropy(first, example.labels) + cross_entropy(second, example.labels)
        total = total + 5 * (divergence(first, second) + divergence(second, first)) / 2
    for name, keys in (("r_drop", {}), ("r_drop_article", {"alpha": 5.0})):
        torch.manual_seed(7)
        loss = objective_of(model, name, **keys).train()(batch).total
        torch.testing.assert_close(2 * loss, total / tokens_of(batch), rtol=1e-9, atol=0)


def test_the_article_s_scale_is_r_drop_at_half_its_alpha(random_model, random_batch):
    model, batch = random_model(dropout=0.3).train(), random_batch(FIXED)
    both = [objective_of(model, name, alpha=alpha).train() for name, alpha in (("r_drop_article", 4), ("r_drop", 2))]
    totals = []
    for objective in both:
        torch.manual_seed(7)
        totals.append(objective(batch).total)
    torch.testing.assert_close(*totals, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SCALES)
@scopes
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, smoothing=SMOOTHING)
@few
def test_without_dropout_r_drop_is_teacher_forcing(
    random_model, random_batch, name, scope, sizes, seed, weight, smoothing
):
    model, batch = random_model(seed), random_batch(sizes, seed)
    objective = objective_of(model, name, smoothing, scope=scope, weight=weight)
    assert_teacher_forcing(objective, batch, exact=False)
    assert abs(objective(batch).parts["divergence"]) < 1e-12


@pytest.mark.parametrize("name", [*SCALES, "noise_consistency"])
@given(seed=SEEDS)
@few
def test_at_weight_zero_they_are_teacher_forcing_under_the_same_dropout(random_model, random_batch, name, seed):
    model, batch, results = random_model(seed, dropout=0.3).train(), random_batch(FIXED, seed), []
    for objective in (objective_of(model, name, weight=0.0).train(), objective_of(model).train()):
        torch.manual_seed(seed)
        total = objective(batch).total
        results.append((total, gradient(model, total)))
    for method, plain in zip(*results, strict=True):
        assert torch.equal(method, plain)


@scopes
def test_r_drop_is_not_teacher_forcing(random_model, random_batch, scope):
    objective = objective_of(random_model(dropout=0.3), "r_drop", scope=scope).train()
    torch.manual_seed(0)
    assert_other_than_teacher_forcing(objective, random_batch(FIXED), 0.01)


@pytest.mark.parametrize("name", [*SCALES, "noise_consistency"])
@pytest.mark.parametrize(("key", "value"), [("alpha", -1.0), ("weight", 2.0)])
def test_values_out_of_range_are_refused_by_name(random_model, name, key, value):
    with pytest.raises(UserError, match=f"^{key}: {value} "):
        objective_of(random_model(), name, **{key: value})
