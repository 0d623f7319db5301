"""TeaForN against a loop that feeds the last rows of one example into the next whole pass."""

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
    embedded,
    few,
    hidden_rows,
    log_chances,
    mean_over,
    objective_of,
    tokens_of,
)

from s2s.batch import IGNORED
from s2s.errors import UserError


def entropies(model, example, passes, smoothing=0.0):
    """The cross-entropy of each pass, of which pass n counts the tokens from the n-th on."""
    words, source = embedded(model, example)
    begin, losses = words[:1], []
    for number in range(1, passes + 1):
        hidden = hidden_rows(model, source, words)
        labels = example.labels.clone()
        labels[: number - 1] = IGNORED
        losses.append(cross_entropy(log_chances(model, hidden), labels, smoothing))
        words = torch.cat([begin, hidden[:-1]])
    return losses


@pytest.mark.parametrize("shape", SHAPES)
@given(
    sizes=SIZES,
    seed=SEEDS,
    passes=st.integers(1, 4),
    decay=st.sampled_from([0.3, 1.0, 1.5]),
    weight=st.sampled_from([0.4, 1.0]),
    smoothing=st.sampled_from([0.0, 0.2]),
)
@few
def test_each_pass_reads_the_rows_of_the_one_before(
    random_model, random_batch, shape, sizes, seed, passes, decay, weight, smoothing
):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)

    def loss(example):
        by_pass = entropies(model, example, passes, smoothing)
        ngrams = sum(decay**number * entropy for number, entropy in enumerate(by_pass))
        return (1 - weight) * by_pass[0] + weight * ngrams

    objective = objective_of(model, "teaforn", smoothing, passes=passes, decay=decay, weight=weight)
    assert_same(objective, batch, mean_over(batch, loss))


def test_the_log_has_each_pass(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    parts = objective_of(model, "teaforn", passes=3, decay=0.5, weight=0.8)(batch).parts
    for number, name in enumerate(("cross_entropy", "pass_2", "pass_3")):
        expected = mean_over(batch, lambda example, number=number: entropies(model, example, 3)[number])
        share = 0.8 * 0.5**number if number else 1.0
        torch.testing.assert_close(parts[name], share * expected.detach(), rtol=1e-10, atol=0)


def test_a_pass_beyond_the_target_s_end_adds_nothing(random_model, random_batch):
    model, batch = random_model(), random_batch([(4, 1), (3, 0)])
    parts = objective_of(model, "teaforn", passes=4, decay=1.0)(batch).parts
    assert tokens_of(batch) == 3
    assert parts["pass_2"] > 0
    assert parts["pass_3"] == parts["pass_4"] == 0


@given(sizes=SIZES, seed=SEEDS, smoothing=st.sampled_from([0.0, 0.2]))
@few
def test_at_its_zeros_it_is_teacher_forcing(random_model, random_batch, sizes, seed, smoothing):
    model, batch = random_model(seed), random_batch(sizes, seed)
    assert_teacher_forcing(objective_of(model, "teaforn", smoothing, weight=0.0), batch, exact=True)
    assert_teacher_forcing(objective_of(model, "teaforn", smoothing, passes=1), batch, exact=False)
    assert_teacher_forcing(objective_of(model, "teaforn", smoothing, decay=0.0, passes=3), batch, exact=False)


def test_it_is_not_teacher_forcing(random_model, random_batch):
    assert_other_than_teacher_forcing(objective_of(random_model(), "teaforn"), random_batch(FIXED), 0.01)


@pytest.mark.parametrize(("key", "value"), [("passes", 0), ("decay", -0.5), ("weight", -1.0)])
def test_values_out_of_range_are_refused_by_name(random_model, key, value):
    with pytest.raises(UserError, match=f"^{key}: {value} "):
        objective_of(random_model(), "teaforn", **{key: value})
