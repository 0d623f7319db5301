"""Noise consistency one example at a time: a gold prefix and a corrupted one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    SHAPES,
    SIZES,
    assert_other_than_teacher_forcing,
    assert_same,
    cross_entropy,
    divergence,
    examples,
    few,
    mean_over,
    objective_of,
    predict,
)

from s2s.batch import IGNORED, count
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import MITIGATIONS, PreparedMethod
from s2s.mitigations.base import StepContext
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws

WEIGHTS = st.sampled_from([0.4, 1.0])
SMOOTHING = st.sampled_from([0.0, 0.2])


def replaced(batch, rate):
    """Each token after the begin symbol gives way, at the rate, to one of its own target's tokens."""
    target = batch.target.clone()
    for example in examples(batch):
        draws = Draws(batch.seeds[example.row][None], "noise_consistency")
        hit, draw = (draws.uniform(purpose, len(example.target))[0].tolist() for purpose in ("hit", "token"))
        target_tokens = example.target[1:].tolist()
        for column in range(1, len(example.target)):
            if hit[column] < rate:
                target[example.row, column] = target_tokens[int(draw[column] * len(target_tokens))]
    return batch._replace(target=target)


def consistency(model, clean, corrupted, weight, alpha, smoothing, detach):
    """The loss of one example whose second view is another prefix, or another source and prefix."""
    clean_scores, corrupted_scores = predict(model, clean), predict(model, clean, *corrupted)
    first, second = (cross_entropy(view, clean.labels, smoothing) for view in (clean_scores, corrupted_scores))
    both = (
        2 * divergence(clean_scores.detach(), corrupted_scores)
        if detach
        else divergence(clean_scores, corrupted_scores) + divergence(corrupted_scores, clean_scores)
    )
    return (1 - weight) * first + weight * ((first + second) / 2 + alpha * both / 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("detach_clean", [False, True])
@given(sizes=SIZES, seed=SEEDS, weight=WEIGHTS, rate=st.sampled_from([0.3, 1.0]), smoothing=SMOOTHING)
@few
def test_noise_consistency_compares_the_gold_prefix_with_a_replaced_one(
    random_model, random_batch, shape, detach_clean, sizes, seed, weight, rate, smoothing
):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    second = {example.row: example.target for example in examples(replaced(batch, rate))}

    def loss(example):
        words = model.embedding.tokens.weight[second[example.row]]
        return consistency(model, example, [words], weight, 3.0, smoothing, detach_clean)

    keys = {"weight": weight, "rate": rate, "alpha": 3.0, "detach_clean": detach_clean}
    assert_same(objective_of(model, "noise_consistency", smoothing, **keys), batch, mean_over(batch, loss))


@pytest.mark.parametrize("scope", ["target", "all"])
def test_the_second_view_is_what_the_feeds_have_left(random_model, random_batch, scope):
    model, batch = random_model(), random_batch([(7, 5), (6, 4)])
    feed, passes = MITIGATIONS["word_dropout"](rate=0.5, scope=scope), Passes(model, 0.0, model)
    fed = feed.feed(batch, StepContext(passes, Draws(batch.seeds, "word_dropout"), count(batch), 0, 1.0))  # type: ignore[attr-defined]
    assert (fed.target < 0).any()
    assert (fed.source < 0).any() == (scope == "all")

    def loss(example):
        target, source = fed.target[example.row, : len(example.target)], fed.source[example.row, : len(example.source)]
        return consistency(model, example, [model.words(target), model.words(source)], 1.0, 1.0, 0.0, False)

    methods = [
        PreparedMethod("word_dropout", feed),
        PreparedMethod("noise_consistency", MITIGATIONS["noise_consistency"](rate=0.0)),
    ]
    assert_same(Objective(model, ObjectiveSettings(), methods), batch, mean_over(batch, loss))


def test_a_label_that_a_swap_shows_does_not_count_in_the_second_view(random_model, random_batch, monkeypatch):
    model, batch, seen, scores = random_model(), random_batch([(5, 4)]), [], Passes.scores
    monkeypatch.setattr(
        Passes, "scores", lambda self, rows, labels, *rest: seen.append(labels) or scores(self, rows, labels, *rest)
    )
    feed = MITIGATIONS["swap_noise"](rate=1.0)
    fed = feed.feed(batch, StepContext(None, Draws(batch.seeds, "swap_noise"), count(batch), 0, 1.0))  # type: ignore[attr-defined]
    assert (fed.labels == IGNORED).sum() > (batch.labels == IGNORED).sum()
    methods = [
        PreparedMethod("swap_noise", feed),
        PreparedMethod("noise_consistency", MITIGATIONS["noise_consistency"](rate=0.0)),
    ]
    Objective(model, ObjectiveSettings(), methods)(batch)
    assert (seen[1][fed.labels == IGNORED] == IGNORED).all()


@pytest.mark.parametrize("detach_clean", [False, True])
def test_noise_consistency_is_not_teacher_forcing(random_model, random_batch, detach_clean):
    objective = objective_of(random_model(), "noise_consistency", detach_clean=detach_clean, rate=0.9)
    assert_other_than_teacher_forcing(objective, random_batch(FIXED))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_of_noise_consistency_out_of_range_is_refused_before_the_first_step(rate):
    with pytest.raises(UserError, match=f"^rate: {rate} "):
        MITIGATIONS["noise_consistency"](rate=rate)
