"""The gradient penalty against central differences of the loss, twice differentiated slow forwards, and its laws."""

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
    assert_same,
    assert_teacher_forcing,
    cross_entropy,
    distance,
    embedded,
    examples,
    few,
    gradient,
    mean_over,
    objective_of,
    predict,
    rows_of,
    tokens_of,
)
from torch.backends.cuda import flash_sdp_enabled, mem_efficient_sdp_enabled

PENALTIES = ("gradient_penalty", "gradient_penalty_article")
scopes = pytest.mark.parametrize("scope", ["target", "all"])
shapes = pytest.mark.parametrize("shape", SHAPES)
penalties = pytest.mark.parametrize("name", PENALTIES)


def scale_of(name, batch):
    """The factor of the squared gradient of the batch's mean loss, besides epsilon / 2."""
    return tokens_of(batch) if name == "gradient_penalty" else 1


def words_of(model, example, scope):
    return embedded(model, example) if scope == "all" else embedded(model, example)[:1]


def slopes_by_differences(model, example, scope, step=1e-5):
    """The derivative of the example's summed loss along each number of its embeddings, by central differences."""
    words, slopes = [part.detach().clone() for part in words_of(model, example, scope)], []
    for part in words:
        for index in range(part.numel()):
            kept, sides = float(part.view(-1)[index]), []
            for shift in (step, -step):
                part.view(-1)[index] = kept + shift
                sides.append(float(cross_entropy(predict(model, example, *words), example.labels)))
            part.view(-1)[index] = kept
            slopes.append((sides[0] - sides[1]) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


@penalties
@scopes
@torch.no_grad()
def test_the_penalty_is_the_squared_slope_by_central_differences(random_model, random_batch, name, scope):
    model, batch = random_model(1), random_batch([(3, 2), (4, 1)])
    square = sum(slopes_by_differences(model, example, scope).square().sum() for example in examples(batch))
    expected = 0.6 * 0.8 / 2 * scale_of(name, batch) * square / tokens_of(batch) ** 2
    with torch.enable_grad():
        losses = objective_of(model, name, scope=scope, epsilon=0.8, weight=0.6)(batch)
    assert float(losses.parts["penalty"]) == pytest.approx(float(expected), rel=1e-7)


@penalties
@scopes
@shapes
@given(sizes=SIZES, seed=SEEDS, smoothing=st.sampled_from([0.0, 0.2]), epsilon=st.sampled_from([0.1, 1.0]))
@few
def test_the_loss_and_its_gradients_are_a_slow_forward_differentiated_twice(
    random_model, random_batch, name, scope, shape, sizes, seed, smoothing, epsilon
):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    # One graph over all examples: their mean loss, and the square of its gradient at each occurrence of a token.
    words = [words_of(model, example, scope) for example in examples(batch)]
    pairs = zip(examples(batch), words, strict=True)
    mean = sum(cross_entropy(predict(model, row, *parts), row.labels, smoothing) for row, parts in pairs)
    mean = mean / tokens_of(batch)
    slopes = torch.autograd.grad(mean, [part for parts in words for part in parts], create_graph=True)
    square = sum(part.square().sum() for part in slopes)
    expected = mean + 0.7 * epsilon / 2 * scale_of(name, batch) * square
    objective = objective_of(model, name, smoothing, scope=scope, epsilon=epsilon, weight=0.7)
    losses = assert_same(objective, batch, expected)
    torch.testing.assert_close(losses.parts["cross_entropy"], mean.detach(), rtol=1e-8, atol=1e-12)


@scopes
def test_the_gradients_are_central_differences_of_the_loss(random_model, random_batch, scope):
    model, batch = random_model(2), random_batch([(4, 3), (3, 2)])
    objective = objective_of(model, "gradient_penalty", scope=scope, epsilon=5.0)
    slopes = torch.autograd.grad(objective(batch).total, list(model.parameters()))
    generator = torch.Generator().manual_seed(0)
    for parameter, slope in zip(model.parameters(), slopes, strict=True):
        index = int(torch.randint(parameter.numel(), (1,), generator=generator))
        entry, sides = parameter.data.view(-1), []
        kept = float(entry[index])
        for shift in (1e-5, -1e-5):
            entry[index] = kept + shift
            sides.append(objective(batch).total.detach())
        entry[index] = kept
        difference = float(sides[0] - sides[1]) / 2e-5
        assert difference == pytest.approx(float(slope.reshape(-1)[index]), rel=1e-5, abs=1e-8)


@penalties
@scopes
@pytest.mark.parametrize("first_order", [False, True])
def test_the_penalty_turns_the_gradient(random_model, random_batch, name, scope, first_order):
    batch = random_batch(FIXED)
    keys = {"scope": scope, "first_order": first_order, "epsilon": tokens_of(batch) / scale_of(name, batch)}
    assert_other_than_teacher_forcing(objective_of(random_model(), name, **keys), batch, 0.01)


@penalties
def test_the_scopes_differ(random_model, random_batch, name):
    batch = random_batch(FIXED)
    parts = [objective_of(random_model(), name, scope=one)(batch).parts["penalty"] for one in ("target", "all")]
    assert parts[1] > 1.001 * parts[0]


@pytest.mark.parametrize("first_order", [False, True])
def test_the_article_s_division_by_labels_keeps_the_digits_of_float64(random_model, random_batch, first_order):
    """By 7 and 11 labels, of which float32 knows neither inverse."""
    for sizes in ([(4, 3), (3, 2)], [(4, 6), (3, 3)]):
        model, batch = random_model(2), random_batch(sizes)
        number = int(tokens_of(batch))
        penalty, expected = (
            objective_of(model, name, epsilon=epsilon, first_order=first_order, scope="target")(batch).total
            for name, epsilon in (("gradient_penalty_article", 0.5), ("gradient_penalty", 0.5 / number))
        )
        torch.testing.assert_close(penalty, expected, rtol=1e-14, atol=0)


@scopes
@pytest.mark.parametrize("first_order", [False, True])
def test_a_batch_twice_is_penalised_as_once_and_half_as_much_in_the_article(
    random_model, random_batch, scope, first_order
):
    model, once = random_model(), random_batch(FIXED)
    twice = rows_of(once, [0, 1, 2, 0, 1, 2])
    plain = objective_of(model)(once).total
    for name, ratio in (("gradient_penalty", 1.0), ("gradient_penalty_article", 0.5)):
        objective = objective_of(model, name, scope=scope, epsilon=1e-4, first_order=first_order)
        rises = [objective(batch).total - plain for batch in (once, twice)]
        assert float((rises[1] / rises[0]).detach()) == pytest.approx(ratio, rel=1e-3 if first_order else 1e-7)
        slopes = [gradient(objective, objective(batch).total) for batch in (once, twice)]
        assert (distance(*slopes) < 1e-10) == (ratio == 1.0)


def test_the_two_norms_meet_at_the_article_s_labels(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    penalised = objective_of(model, "gradient_penalty", scope="all", epsilon=1 / tokens_of(batch))
    assert_same(penalised, batch, objective_of(model, "gradient_penalty_article")(batch).total)


@penalties
@scopes
@given(sizes=SIZES, seed=SEEDS, weight=st.sampled_from([0.4, 1.0]), smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_the_first_order_form_is_a_loop_over_examples(
    random_model, random_batch, name, scope, sizes, seed, weight, smoothing
):
    model, batch = random_model(seed), random_batch(sizes, seed)
    share = 0.3 * scale_of(name, batch) / tokens_of(batch)

    def loss(example):
        words = words_of(model, example, scope)
        clean = cross_entropy(predict(model, example, *words), example.labels, smoothing)
        pulls = torch.autograd.grad(clean, words, retain_graph=True)
        moved = (word + share * pull for word, pull in zip(words, pulls, strict=True))
        there = cross_entropy(predict(model, example, *moved), example.labels, smoothing)
        return (1 - weight) * clean + weight * there

    keys = {"scope": scope, "weight": weight, "epsilon": 0.3, "first_order": True}
    assert_same(objective_of(model, name, smoothing, **keys), batch, mean_over(batch, loss))


@penalties
@scopes
def test_the_first_order_gradient_is_the_penalty_s_up_to_the_square_of_epsilon(random_model, random_batch, name, scope):
    model, batch, errors = random_model(), random_batch(FIXED), []
    for epsilon in (4e-3, 2e-3, 1e-3):
        epsilon = epsilon * tokens_of(batch) / scale_of(name, batch)
        both = [objective_of(model, name, scope=scope, epsilon=epsilon, first_order=one) for one in (True, False)]
        errors.append(distance(*(gradient(one, one(batch).total) for one in both)))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


@penalties
@scopes
@pytest.mark.parametrize("first_order", [False, True])
@given(sizes=SIZES, seed=SEEDS, smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_at_weight_zero_or_epsilon_zero_it_is_teacher_forcing(
    random_model, random_batch, name, scope, first_order, sizes, seed, smoothing
):
    model, batch = random_model(seed), random_batch(sizes, seed)
    keys = {"smoothing": smoothing, "scope": scope, "first_order": first_order}
    assert_teacher_forcing(objective_of(model, name, weight=0.0, **keys), batch, exact=True)
    assert_teacher_forcing(objective_of(model, name, epsilon=0.0, **keys), batch, exact=False)


def test_other_kernels_of_attention_are_allowed_again_afterwards(random_model, random_batch):
    objective_of(random_model(), "gradient_penalty")(random_batch(FIXED)).total.backward()
    assert (flash_sdp_enabled(), mem_efficient_sdp_enabled()) == (True, True)
