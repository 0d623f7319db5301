"""The control of minimum risk training: the rewards of a source's candidates in another order."""

import itertools
from collections import Counter

import pytest
import torch
from enumeration import assert_frequencies
from hypothesis import given
from hypothesis import strategies as st
from naive import SEEDS, few, rows_of
from sequences import (
    END,
    METRIC,
    candidates_strategy,
    context_of,
    forced,
    log_prob,
    objective_of,
    reward,
    source_of,
    training_context,
    write_decoded,
)

from s2s.batch import collate
from s2s.mitigations.minimum_risk import MinimumRisk, ShuffledRisk

SIZES = [(4, 3), (6, 1)]


def context(batch):
    return context_of(batch, name="mrt_shuffled")


@given(seed=SEEDS, rows=st.tuples(candidates_strategy(4), candidates_strategy(4)))
@few
def test_the_loss_is_that_of_some_order_within_each_source(random_model, random_batch, tmp_path_factory, seed, rows):
    model, batch = random_model(seed), random_batch(SIZES, seed)
    path = write_decoded(tmp_path_factory.mktemp("mrt") / "x", batch, rows, [[0.0] * len(row) for row in rows])
    training = training_context([source_of(batch, row) for row in range(2)])
    keys = {"alpha": 0.5, "metric": METRIC, "path": path, "weight": 0.5}
    objective = objective_of(model, "mrt_shuffled", training, **keys)
    with torch.no_grad():
        expected = []
        for row, candidates in enumerate(rows):
            shares = [float((0.5 * log_prob(model, batch, row, candidate)).exp()) for candidate in candidates]
            costs = [1 - reward(candidate, batch, row) for candidate in candidates]
            orders = [sum(map(float.__mul__, shares, order)) / sum(shares) for order in itertools.permutations(costs)]
            plain = float(forced(model, rows_of(batch, [row])))
            risk = 2 * float(objective(rows_of(batch, [row])).total) - plain
            nearest = min(range(len(orders)), key=lambda index: abs(orders[index] - risk))
            assert risk == pytest.approx(orders[nearest], rel=1e-9)
            expected.append(orders[nearest])
        # Beside a longer row, and so with another filling, the order is the same.
        together = 2 * float(objective(batch).total) - float(forced(model, batch))
        assert together == pytest.approx(sum(expected) / 2, rel=1e-9)


def test_the_rewards_of_the_different_candidates_are_dealt_evenly():
    batch = collate([([2, 4, END], [])] * 4000, 0, END)
    rewards = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.2, 0.0]).repeat(4000, 1)
    distinct = torch.tensor([True, True, False, True, False, False]).repeat(4000, 1)
    shuffled = ShuffledRisk().order(rewards, distinct, context(batch))
    orders = Counter(tuple(round(value, 1) for value in row) for row in shuffled[:, [0, 1, 3]].tolist())
    expected = list(itertools.permutations([0.1, 0.5, 0.9]))
    assert set(orders) == set(expected)
    assert_frequencies([orders[order] for order in expected], [1 / 6] * 6)
    assert torch.equal(shuffled.sort(dim=1).values, rewards.sort(dim=1).values)
    assert MinimumRisk().order(rewards, distinct, context(batch)) is rewards


@given(
    pattern=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), filling=st.integers(0, 3)
)
@few
def test_no_source_gives_rewards_away_nor_takes_any_for_duplicates_or_filling(pattern, filling):
    batch = collate([([2, 4, END], [])] * len(pattern), 0, END)
    distinct = torch.tensor([[*row, *[False] * filling] for row in pattern])
    rewards = torch.arange(1.0, distinct.numel() + 1).view(distinct.shape) * distinct
    shuffled = ShuffledRisk().order(rewards, distinct, context(batch))
    for row, mask in enumerate(distinct):
        assert sorted(shuffled[row][mask].tolist()) == rewards[row][mask].tolist()
    narrow = ShuffledRisk().order(rewards[:, :5], distinct[:, :5], context(batch))
    assert torch.equal(narrow * distinct[:, :5], (shuffled * distinct)[:, :5])
