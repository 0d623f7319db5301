"""Minimum risk training against loops over candidates, each decoded alone, and against whole enumeration."""

import pytest
import torch
from enumeration import all_sequences
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
    few,
    gradient,
    rows_of,
)
from sequences import (
    END,
    METRIC,
    assert_idle_rows_add_nothing,
    candidates_strategy,
    context_of,
    forced,
    log_prob,
    objective_of,
    reward,
    sampled,
    shared,
    source_of,
    target_of,
    training_context,
    unique,
    with_idle,
    write_decoded,
)

from s2s.batch import add, collate, count
from s2s.errors import UserError
from s2s.metrics.sentence import METRICS, sentence_metric
from s2s.mitigations.candidates import sample
from s2s.mitigations.minimum_risk import MinimumRisk

ALPHAS = st.sampled_from([0.005, 0.3, 1.0, 4.0])
WEIGHTS = st.sampled_from([0.3, 0.9])
NAMES = ("mrt", "mrt_shuffled")
shapes = pytest.mark.parametrize("shape", SHAPES)
names = pytest.mark.parametrize("name", NAMES)


def risk(model, batch, row, candidates, costs, alpha):
    """sum_c p_c^alpha cost_c / sum_c p_c^alpha, candidate after candidate."""
    above = below = 0.0
    for candidate, cost in zip(candidates, costs, strict=True):
        share = (alpha * log_prob(model, batch, row, candidate)).exp()
        above, below = above + share * cost, below + share
    return above / below


def mean_risk(model, batch, rows, alpha, metric=shared):
    risks = []
    for row, candidates in enumerate(map(unique, rows)):
        costs = [1 - reward(candidate, batch, row, metric) for candidate in candidates]
        risks.append(risk(model, batch, row, candidates, costs, alpha))
    return torch.stack(risks).mean()


@shapes
@given(sizes=SIZES, seed=SEEDS, alpha=ALPHAS, weight=WEIGHTS, copies=st.integers(1, 5), with_gold=st.booleans())
@few
def test_the_risk_is_a_loop_over_different_samples(
    random_model, random_batch, shape, sizes, seed, alpha, weight, copies, with_gold
):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    model.output_bias.data[[END, 7]] += 3.0  # so that some are alike
    rows = sampled(model, batch, "mrt", copies)
    if with_gold:
        rows = [[*row, target_of(batch, index)] for index, row in enumerate(rows)]
    expected = (1 - weight) * forced(model, batch, 0.1) + weight * mean_risk(model, batch, rows, alpha)
    keys = {"alpha": alpha, "weight": weight, "candidates": copies, "with_gold": with_gold, "metric": METRIC}
    assert_same(objective_of(model, "mrt", smoothing=0.1, **keys), batch, expected)


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_any_metric_is_the_reward(random_model, random_batch, metric):
    model, batch = random_model(), random_batch(FIXED)
    model.output_bias.data[batch.labels[0, :2]] += 3.0
    expected = mean_risk(model, batch, sampled(model, batch, "mrt", 4), 1.0, sentence_metric(metric))
    # float32 also rounds one minus the reward.
    assert_same(objective_of(model, "mrt", alpha=1.0, candidates=4, metric=metric), batch, expected, 1e-6)


def test_with_enough_samples_the_risk_is_that_of_all_sequences(random_model):
    model, sequences = random_model(1, vocabulary=5), all_sequences(5, 2)
    model.embedding.tokens.weight.data *= 0.2  # nearly even, so that all are found
    batch = collate([([2, 4, 4, END], [4, 4]), ([2, 4, END], [4])], 0, END)
    whole = [sum(log_prob(model, batch, row, ids).exp() * (1 - reward(ids, batch, row)) for ids in sequences)
             for row in range(2)]  # fmt: skip
    samples = sample(batch, context_of(batch, model), 400, 2, END)
    assert [len(unique(row)) for row in samples] == [len(sequences)] * 2
    keys = {"alpha": 1.0, "candidates": 400, "metric": METRIC}
    objective = objective_of(model, "mrt", training_context(max_length=2, size=5), **keys)
    assert_same(objective, batch, torch.stack(whole).mean())


def test_a_large_exponent_picks_the_likeliest_and_none_takes_all_alike(random_model, random_batch):
    model, batch = random_model(), random_batch(FIXED)
    rows = [unique(row) for row in sampled(model, batch, "mrt", 5)]
    likeliest = [max(row_values, key=lambda candidate: float(log_prob(model, batch, row, candidate).detach()))
                 for row, row_values in enumerate(rows)]  # fmt: skip
    for alpha, chosen in ((1e5, [[candidate] for candidate in likeliest]), (0.0, rows)):
        costs = [
            [1 - reward(candidate, batch, row) for candidate in row_values] for row, row_values in enumerate(chosen)
        ]
        expected = sum(sum(row_values) / len(row_values) for row_values in costs) / len(costs)
        loss = objective_of(model, "mrt", alpha=alpha, candidates=5, metric=METRIC)(batch).total
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-9)


@given(sizes=SIZES, seed=SEEDS, alpha=ALPHAS, with_gold=st.booleans(), most=st.integers(1, 5), data=st.data())
@few
def test_a_file_stands_in_for_samples(
    random_model, random_batch, tmp_path_factory, sizes, seed, alpha, with_gold, most, data
):
    batch = random_batch([(source + row * 8, target) for row, (source, target) in enumerate(sizes)], seed)
    model, rows = random_model(seed), [data.draw(candidates_strategy()) for _ in sizes]
    path = write_decoded(tmp_path_factory.mktemp("mrt") / "x", batch, rows, [[0.0] * len(row) for row in rows])
    training = training_context([source_of(batch, row) for row in range(len(sizes))])._replace(max_source=40)
    keys = {"alpha": alpha, "with_gold": with_gold, "candidates": most, "metric": METRIC, "path": path, "weight": 0.5}
    chosen = [row[:most] + [target_of(batch, index)] * with_gold for index, row in enumerate(rows)]
    expected = (forced(model, batch) + mean_risk(model, batch, chosen, alpha)) / 2
    assert_same(objective_of(model, "mrt", training, **keys), batch, expected)


@names
def test_the_gradient_is_far_from_teacher_forcing_s(random_model, random_batch, name):
    for weight in (0.5, 1.0):
        objective = objective_of(random_model(), name, alpha=1.0, candidates=4, weight=weight, metric=METRIC)
        assert_other_than_teacher_forcing(objective, random_batch(FIXED), 1e-2)
    shuffled, plain = (objective_of(random_model(), other, alpha=1.0, candidates=4, metric=METRIC) for other in NAMES)
    batch = random_batch(FIXED)
    assert not torch.allclose(shuffled(batch).total, plain(batch).total)


@names
def test_at_weight_0_and_before_the_start_it_is_teacher_forcing_bit_for_bit(random_model, random_batch, name):
    batch = random_batch(FIXED)
    for keys in ({"weight": 0.0}, {"start_step": 1}):
        objective = objective_of(random_model(dtype=torch.float32), name, smoothing=0.1, candidates=3, **keys)
        assert_teacher_forcing(objective, batch, exact=True)


@names
def test_rows_without_labels_add_nothing_and_parts_of_an_update_add_up(random_model, random_batch, name):
    model, batch = random_model(), random_batch([*FIXED, (4, 1)])
    for weight in (0.4, 1.0):
        objective = objective_of(model, name, weight=weight, candidates=3, alpha=1.0, with_gold=True, metric=METRIC)
        assert_idle_rows_add_nothing(objective, with_idle(batch, 0, 3), rows_of(batch, [1, 2]))
        parts = [rows_of(batch, [0, 2]), rows_of(batch, [3]), rows_of(batch, [1])]
        counts, whole = add([count(part) for part in parts]), objective(batch).total
        split = sum(objective(part, counts=counts).total for part in parts)
        torch.testing.assert_close(split, whole)
        torch.testing.assert_close(gradient(objective, split), gradient(objective, whole))


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"candidates": 0}, "^candidates: 0 "), ({"metric": "crhf"}, r"^metric: no 'crhf'.*'chrf'"),
     ({"weight": 1.5}, "^weight: 1.5 "), ({"path": "/nowhere"}, "^path: /nowhere: ")],
)  # fmt: skip
def test_a_wrong_key_is_refused_by_name(keys, message):
    with pytest.raises(UserError, match=message):
        MinimumRisk(**keys).prepare(training_context())
