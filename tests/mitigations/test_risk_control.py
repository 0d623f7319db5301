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
        for row, own in enumerate(rows):
            shares = [float((0.5 * log_prob(model, batch, row, one)).exp()) for one in own]
            costs = [1 - reward(one, batch, row) for one in own]
            orders = [sum(map(float.__mul__, shares, order)) / sum(shares) for order in itertools.permutations(costs)]
            plain = float(forced(model, rows_of(batch, [row])))
            found = 2 * float(objective(rows_of(batch, [row])).total) - plain
            place = min(range(len(orders)), key=lambda index: abs(orders[index] - found))
            assert found == pytest.approx(orders[place], rel=1e-9)
            expected.append(orders[place])
        # Beside a longer row, and so with another filling, the order is the same.
        together = 2 * float(objective(batch).total) - float(forced(model, batch))
        assert together == pytest.approx(sum(expected) / 2, rel=1e-9)


def test_the_rewards_of_the_different_candidates_are_dealt_evenly():
    batch = collate([([2, 4, END], [])] * 4000, 0, END)
    rewards = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.2, 0.0]).repeat(4000, 1)
    real = torch.tensor([True, True, False, True, False, False]).repeat(4000, 1)
    found = ShuffledRisk().order(rewards, real, context(batch))
    orders = Counter(tuple(round(value, 1) for value in row) for row in found[:, [0, 1, 3]].tolist())
    expected = list(itertools.permutations([0.1, 0.5, 0.9]))
    assert set(orders) == set(expected)
    assert_frequencies([orders[order] for order in expected], [1 / 6] * 6)
    assert torch.equal(found.sort(dim=1).values, rewards.sort(dim=1).values)
    assert MinimumRisk().order(rewards, real, context(batch)) is rewards


@given(
    pattern=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4), filling=st.integers(0, 3)
)
@few
def test_no_source_gives_rewards_away_nor_takes_any_for_duplicates_or_filling(pattern, filling):
    batch = collate([([2, 4, END], [])] * len(pattern), 0, END)
    real = torch.tensor([[*row, *[False] * filling] for row in pattern])
    rewards = torch.arange(1.0, real.numel() + 1).view(real.shape) * real
    found = ShuffledRisk().order(rewards, real, context(batch))
    for row, own in enumerate(real):
        assert sorted(found[row][own].tolist()) == rewards[row][own].tolist()
    narrow = ShuffledRisk().order(rewards[:, :5], real[:, :5], context(batch))
    assert torch.equal(narrow * real[:, :5], (found * real)[:, :5])
