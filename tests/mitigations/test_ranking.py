"""Rankings of stored candidates against double loops, each candidate decoded alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import (
    FIXED,
    SEEDS,
    assert_other_than_teacher_forcing,
    assert_same,
    assert_teacher_forcing,
    few,
    gradient,
    rows_of,
)
from sequences import (
    METRIC,
    assert_idle_rows_add_nothing,
    candidates_strategy,
    forced,
    log_prob,
    objective_of,
    reward,
    source_of,
    training_context,
    with_idle,
    write_decoded,
)

import s2s
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.mitigations.candidates import Candidate

SIZES = [(4, 3), (6, 1), (5, 0)]
ROWS = st.tuples(*[candidates_strategy()] * len(SIZES))
FIVE = [Candidate([7, 8], True), Candidate([], True), Candidate([9, 8, 7, 6], False), Candidate([5], True),
        Candidate([12, 13, 5], True)]  # fmt: skip
METHODS = ("brio", "dpo")
names = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """An objective whose method reads these candidates, with the log-probabilities that the file gives them."""

    def make(model, batch, rows, name, scores=None, smoothing=0.0, **keys):
        scores = scores or [[-rank / 4 for rank, _ in enumerate(row)] for row in rows]
        path = write_decoded(tmp_path_factory.mktemp(name) / "decoded.jsonl", batch, rows, scores)
        training = training_context([source_of(batch, row) for row in range(len(rows))])
        return objective_of(model, name, training, smoothing, metric=METRIC, path=path, **keys)

    return make


def ranked(candidates, batch, row):
    """Places of the candidates from the best to the worst, the earlier first among equals."""
    return sorted(range(len(candidates)), key=lambda index: -reward(candidates[index], batch, row))


def values_of(model, batch, row, candidates, exponent):
    values = []
    for index in ranked(candidates, batch, row):
        candidate = candidates[index]
        values.append(log_prob(model, batch, row, candidate) / (len(candidate.ids) + candidate.ended) ** exponent)
    return values


def pairs(model, batch, row, candidates, margin, exponent):
    """The text's sum over all pairs."""
    values, total = values_of(model, batch, row, candidates, exponent), torch.zeros((), dtype=torch.float64)
    for i, better in enumerate(values):
        for j, worse in enumerate(values):
            if i < j and worse - better + (j - i) * margin > 0:
                total = total + worse - better + (j - i) * margin
    return total


@given(seed=SEEDS, rows=ROWS, most=st.integers(1, 7), margin=st.sampled_from([0.001, 1.5]),
       exponent=st.sampled_from([0.0, 1.0, 2.0]), weight=st.sampled_from([0.3, 1.0]))  # fmt: skip
@few
def test_the_margins_are_a_double_loop(random_model, random_batch, stored, seed, rows, most, margin, exponent, weight):
    model, batch = random_model(seed), random_batch(SIZES, seed)
    ranking = [pairs(model, batch, row, candidates[:most], margin, exponent) for row, candidates in enumerate(rows)]
    expected = forced(model, batch, 0.1) + weight * 3.0 * torch.stack(ranking).mean()
    keys = {"margin": margin, "length_penalty": exponent, "weight": weight, "gamma": 3.0, "candidates": most}
    assert_same(stored(model, batch, rows, "brio", smoothing=0.1, pairs="sum", **keys), batch, expected)


def by_distance(model, batch, row, candidates, margin, exponent):
    """The released code's form: for each distance torch's own margin loss, which is a mean over its pairs."""
    values = values_of(model, batch, row, candidates, exponent)
    total = torch.zeros((), dtype=torch.float64)
    for distance in range(1, len(values)):
        better, worse = torch.stack(values[:-distance]), torch.stack(values[distance:])
        total = total + torch.nn.MarginRankingLoss(margin * distance)(better, worse, torch.ones_like(better))
    return total


@given(seed=SEEDS, rows=ROWS, most=st.integers(1, 7), margin=st.sampled_from([0.001, 1.5]),
       exponent=st.sampled_from([0.0, 0.6, 2.0]), weight=st.sampled_from([0.3, 1.0]))  # fmt: skip
@few
def test_the_default_is_the_mean_over_the_pairs_of_each_distance(
    random_model, random_batch, stored, seed, rows, most, margin, exponent, weight
):
    model, batch = random_model(seed), random_batch(SIZES, seed)
    ranking = [
        by_distance(model, batch, row, candidates[:most], margin, exponent) for row, candidates in enumerate(rows)
    ]
    expected = forced(model, batch, 0.1) + weight * 3.0 * torch.stack(ranking).mean()
    keys = {"margin": margin, "length_penalty": exponent, "weight": weight, "gamma": 3.0, "candidates": most}
    assert_same(stored(model, batch, rows, "brio", smoothing=0.1, **keys), batch, expected)


def test_a_form_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"^pairs: no 'means'; did you mean 'mean'"):
        MITIGATIONS["brio"](path="x", pairs="means")


def saved(folder, row):
    file = folder / "recipe.yaml"
    file.write_text(f"mitigations: [{row}]\n", encoding="utf-8")
    return s2s.Recipe.load(file).mitigations[0]


def test_a_run_that_was_saved_before_the_forms_had_names_keeps_the_sum(tmp_path):
    row = "{name: brio, path: decoded.jsonl}"
    assert saved(tmp_path, row).pairs == "mean"
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    assert saved(tmp_path, row).pairs == "sum"
    assert saved(tmp_path, "{name: brio, path: decoded.jsonl, pairs: mean}").pairs == "mean"
    assert saved(tmp_path, "{name: dpo, path: decoded.jsonl}") == MITIGATIONS["dpo"](path="decoded.jsonl")


def test_a_saved_recipe_names_the_form(tmp_path):
    (tmp_path / "mine.yaml").write_text("mitigations: [{name: brio, path: decoded.jsonl}]\n", encoding="utf-8")
    recipe = s2s.Recipe.load(tmp_path / "mine.yaml")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    assert "pairs: mean" in recipe.to_yaml()
    assert s2s.Recipe.load(tmp_path / "recipe.yaml") == recipe


def preference(model, batch, row, candidates, scores, beta):
    order = ranked(candidates, batch, row)
    best, worst = order[0], order[-1]
    if reward(candidates[best], batch, row) == reward(candidates[worst], batch, row):
        return torch.zeros((), dtype=torch.float64)
    gains = [log_prob(model, batch, row, candidates[index]) - scores[index] for index in (best, worst)]
    return (1 + (-beta * (gains[0] - gains[1])).exp()).log()


@given(seed=SEEDS, rows=ROWS, most=st.integers(1, 7), beta=st.sampled_from([0.1, 1.0]),
       weight=st.sampled_from([0.3, 0.9]), data=st.data())  # fmt: skip
@few
def test_preferences_are_the_formula_over_the_best_and_the_worst(
    random_model, random_batch, stored, seed, rows, most, beta, weight, data
):
    model, batch = random_model(seed), random_batch(SIZES, seed)
    # In 64ths, which float32 holds exactly.
    scores = [[data.draw(st.integers(-640, 0)) / 64 for _ in row] for row in rows]
    preferences = [
        preference(model, batch, row, row_candidates[:most], scores[row], beta)
        for row, row_candidates in enumerate(rows)
    ]
    expected = (1 - weight) * forced(model, batch, 0.1) + weight * torch.stack(preferences).mean()
    objective = stored(model, batch, rows, "dpo", scores, 0.1, beta=beta, weight=weight, candidates=most)
    assert_same(objective, batch, expected)


def test_at_the_reference_a_preference_costs_log_2_and_pushes_by_half_of_beta(random_model, random_batch, stored):
    model, batch = random_model(), random_batch(FIXED)
    rows = [FIVE, FIVE[:3], FIVE[1:]]
    scores = [
        [float(log_prob(model, batch, row, candidate).detach()) for candidate in candidates]
        for row, candidates in enumerate(rows)
    ]
    total = stored(model, batch, rows, "dpo", scores, beta=0.4)(batch).total
    assert float(total.detach()) == pytest.approx(math.log(2), abs=1e-6)
    ends = []
    for row, candidates in enumerate(rows):
        order = ranked(candidates, batch, row)
        ends.append((candidates[order[0]], candidates[order[-1]]))
    gaps = [log_prob(model, batch, row, best) - log_prob(model, batch, row, worst)
            for row, (best, worst) in enumerate(ends)]  # fmt: skip
    expected = gradient(model, -0.4 / 2 * torch.stack(gaps).mean())
    assert (gradient(model, total) - expected).norm() <= 1e-6 * expected.norm()


def test_one_candidate_has_nothing_to_be_ranked_against(random_model, random_batch, stored):
    model, batch = random_model(), random_batch(FIXED)
    rows = [FIVE[:1], FIVE[1:2], FIVE[2:3]]
    assert_teacher_forcing(stored(model, batch, rows, "brio"), batch, exact=False)
    total = stored(model, batch, rows, "dpo")(batch).total
    assert total == 0
    assert not gradient(model, total).any()


@names
def test_the_gradient_is_far_from_teacher_forcing_s(random_model, random_batch, stored, name):
    batch = random_batch(FIXED)
    for weight in (0.5, 1.0):
        assert_other_than_teacher_forcing(stored(random_model(), batch, [FIVE] * 3, name, weight=weight), batch, 1e-2)


@names
def test_at_zero_it_is_teacher_forcing(random_model, random_batch, stored, name):
    batch = random_batch(FIXED)
    for keys in ({"weight": 0.0}, {"start_step": 1}):
        model = random_model(dtype=torch.float32)
        objective = stored(model, batch, [FIVE] * 3, name, smoothing=0.1, **keys)
        assert_teacher_forcing(objective, batch, exact=True)
    objective = stored(random_model(), batch, [FIVE] * 3, "brio", smoothing=0.1, gamma=0.0)
    assert_teacher_forcing(objective, batch, exact=False)


@names
def test_rows_without_labels_add_nothing(random_model, random_batch, stored, name):
    batch = random_batch([*FIXED, (4, 1)])
    objective = stored(random_model(), batch, [FIVE[:2], FIVE, FIVE[:3], FIVE], name, weight=0.4)
    assert_idle_rows_add_nothing(objective, with_idle(batch, 1, 3), rows_of(batch, [0, 2]))


@names
def test_a_method_that_ranks_needs_a_file_and_at_least_one_candidate(name):
    with pytest.raises(UserError, match=r"^path: a file of decoded candidates is needed"):
        MITIGATIONS[name]()
    with pytest.raises(UserError, match=r"^candidates: 0 "):
        MITIGATIONS[name](path="x", candidates=0)
    with pytest.raises(UserError, match=r"^metric: no 'bleau'.*'bleu'"):
        MITIGATIONS[name](path="x", metric="bleau")
    with pytest.raises(UserError, match=r"^path: nowhere: "):
        MITIGATIONS[name](path="nowhere").prepare(training_context())
