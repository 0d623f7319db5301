"""Updates, their order and their shares for processes; counts of cuts; seeds of examples."""

from collections.abc import Sequence
from itertools import islice

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import add, count
from s2s.data import Example
from s2s.data.batches import Indices, UpdateBatch, by_length, data_order, deal, micro_batches, tokenise, updates
from s2s.errors import UserError
from s2s.randomness import seed_of
from s2s.vocabulary import sentence_pieces

pairs = st.lists(st.tuples(st.integers(2, 60), st.integers(1, 30)), min_size=1, max_size=120)
budgets = st.integers(1, 400)
seeds = st.integers(0, 2**40)
TEXTS = [" ".join("abcdefghij"[(3 * row + column) % 10] for column in range(1 + row % 12)) for row in range(60)]
VOCABULARY = sentence_pieces.train(TEXTS, 300)
EXAMPLES = [Example(text, text[::-1][: 3 + index % 9].strip()) for index, text in enumerate(TEXTS)]


def ragged(examples: int) -> Indices:
    return numpy.random.default_rng(1).integers(1, 120, (examples, 2))


def same(ours: Sequence[Indices], theirs: Sequence[Indices]) -> bool:
    return [list(indices) for indices in ours] == [list(indices) for indices in theirs]


@settings(deadline=None, max_examples=50)
@given(pairs=pairs, budget=budgets, seed=seeds, epoch=st.integers(0, 9))
def test_an_epoch_has_every_example_once_within_the_budget(
    pairs: list[tuple[int, int]], budget: int, seed: int, epoch: int
) -> None:
    lengths = numpy.array(pairs)
    plan = updates(lengths, budget, seed, epoch)
    assert sorted(numpy.concatenate(plan)) == list(range(len(pairs)))
    for indices in plan:
        assert len(indices) == 1 or lengths[indices].max(axis=0).sum() * len(indices) <= budget
    assert same(plan, updates(lengths, budget, seed, epoch))


@settings(deadline=None, max_examples=30)
@given(pairs=pairs, budget=budgets, seed=seeds, kind=st.sampled_from([numpy.int32, numpy.int64]))
def test_updates_are_cut_greedily(pairs: list[tuple[int, int]], budget: int, seed: int, kind: type) -> None:
    lengths = numpy.array(pairs)
    random = numpy.random.default_rng(seed_of(seed, "order", 0))
    order, plan = random.permutation(len(lengths)), []
    bucket = max(1, round(64 * budget / lengths.sum(axis=1).mean()))
    for start in range(0, len(order), bucket):
        chosen = order[start : start + bucket]
        plan.append([])
        for index in chosen[by_length(lengths[chosen])]:
            if plan[-1] and lengths[[*plan[-1], index]].max(axis=0).sum() * (len(plan[-1]) + 1) > budget:
                plan.append([])
            plan[-1].append(int(index))
    shuffled = [numpy.array(plan[index]) for index in random.permutation(len(plan))]
    assert same(updates(lengths.astype(kind), budget, seed, 0), shuffled)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = ragged(300)
    plans = {place: updates(lengths, 1000, *place) for place in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    numpy.random.seed(3)
    for place, plan in plans.items():
        assert same(plan, updates(lengths, 1000, *place))
        assert not any(same(plan, other) for key, other in plans.items() if key != place)


def test_updates_come_in_no_order_of_length() -> None:
    lengths = ragged(2000)
    longest = [lengths[indices].sum(axis=1).max() for indices in updates(lengths, 4000, 0, 0)]
    assert abs(numpy.corrcoef(longest, numpy.arange(len(longest)))[0, 1]) < 0.2


@pytest.mark.parametrize(("summaries", "real"), [(False, 0.85), (True, 0.93)])
def test_lengths_within_an_update_are_alike(summaries: bool, real: float) -> None:
    lengths = ragged(20_000)
    if summaries:  # a target as long as its source allows
        lengths[:, 1] = 1 + lengths[:, 0] // 4
    plan = updates(lengths, 4000, 0, 0)
    padded = sum(lengths[indices].max(axis=0).sum() * len(indices) for indices in plan)
    assert lengths.sum() / padded > real
    assert padded / len(plan) > 0.9 * 4000  # and the budget is used


@settings(deadline=None, max_examples=30)
@given(pairs=pairs, budget=budgets, seed=seeds, start=st.integers(0, 60))
def test_a_late_start_is_the_schedule_advanced(
    pairs: list[tuple[int, int]], budget: int, seed: int, start: int
) -> None:
    lengths = numpy.array(pairs)
    late = list(islice(data_order(lengths, budget, seed, start), 20))
    whole = list(islice(data_order(lengths, budget, seed, 0), start, start + 20))
    assert same([place.examples for place in late], [place.examples for place in whole])
    assert [place.epoch for place in late] == [place.epoch for place in whole]


def test_the_schedule_goes_through_epoch_after_epoch() -> None:
    lengths = ragged(50)
    plans = [updates(lengths, 500, 7, epoch) for epoch in range(3)]
    places = list(islice(data_order(lengths, 500, 7, 0), sum(map(len, plans))))
    assert same([place.examples for place in places], [indices for plan in plans for indices in plan])
    assert [place.epoch for place in places] == [epoch for epoch, plan in enumerate(plans) for _ in plan]


def test_no_examples_are_refused() -> None:
    with pytest.raises(UserError, match="no examples"):
        next(data_order(numpy.zeros((0, 2), dtype=numpy.int64), 100, 0, 0))


@settings(deadline=None, max_examples=60)
@given(examples=st.integers(1, 40), processes=st.integers(1, 6), accumulate=st.integers(1, 5))
def test_dealing_gives_every_example_to_one_run(examples: int, processes: int, accumulate: int) -> None:
    update = numpy.arange(examples) + 100
    hands = [deal(update, processes, accumulate, process) for process in range(processes)]
    assert all(len(hand) == accumulate for hand in hands)
    runs = [run for hand in hands for run in hand]
    assert sorted(index for run, counts in runs if counts for index in run) == list(update)
    assert all(list(run) == [100] for run, counts in runs if not counts)
    sizes = [len(run) if counts else 0 for run, counts in runs]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=20)
@given(examples=st.integers(1, 20), processes=st.integers(1, 4), accumulate=st.integers(1, 4))
def test_dealt_batches_weigh_as_much_as_the_whole(examples: int, processes: int, accumulate: int) -> None:
    tokens = tokenise(EXAMPLES, VOCABULARY, 99, 99, "train")
    place = UpdateBatch(0, numpy.arange(examples))
    hands = [
        micro_batches(place, tokens, VOCABULARY, processes, accumulate, process, 0) for process in range(processes)
    ]
    dealt = add([count(batch) for hand in hands for batch in hand])
    lengths = tokens.lengths()[:examples]
    assert [int(unit) for unit in dealt] == [lengths[:, 1].sum(), lengths[:, 0].sum(), examples]


@settings(deadline=None, max_examples=20)
@given(max_source=st.integers(3, 30), max_target=st.integers(2, 30))
def test_cuts_are_exact_and_counted(max_source: int, max_target: int) -> None:
    tokens = tokenise(EXAMPLES, VOCABULARY, max_source, max_target, "train")
    sources = [VOCABULARY.encode(example.source) for example in EXAMPLES]
    targets = [VOCABULARY.encode(example.target) for example in EXAMPLES]
    assert tokens.sources == [[VOCABULARY.begin, *ids[: max_source - 2], VOCABULARY.end] for ids in sources]
    assert tokens.targets == [ids[: max_target - 1] for ids in targets]
    longest = tokens.lengths().max(axis=0)
    assert (longest <= [max_source, max_target]).all()
    long_sources = sum(len(ids) + 2 > max_source for ids in sources)
    long_targets = sum(len(ids) + 1 > max_target for ids in targets)
    expected = []
    if long_sources:
        expected.append(f"train: {long_sources} of {len(EXAMPLES)} sources cut to {max_source} tokens")
    if long_targets:
        expected.append(f"train: {long_targets} of {len(EXAMPLES)} targets cut to {max_target} tokens")
    assert tokens.report == expected


def test_a_batch_has_the_lengths_that_were_planned_for() -> None:
    tokens = tokenise(EXAMPLES, VOCABULARY, 20, 8, "train")
    batch = tokens.batch(numpy.array([3, 30, 7]), VOCABULARY)
    source, target = tokens.lengths()[[3, 30, 7]].max(axis=0)
    assert (batch.source.shape, batch.target.shape, batch.labels.shape) == ((3, source), (3, target), (3, target))


def test_a_seed_depends_on_each_part_of_its_place() -> None:
    places = [(), (0,), (1,), ("0",), (0, 0), (0, 1), (1, 0), ("a",), ("a", "b"), ("ab",), ("", "ab"), ("a", 0), (10,)]
    values = {seed_of(*place) for place in places}
    assert len(values) == len(places)
    assert all(0 <= value < 2**63 for value in values)


def test_seeds_never_change() -> None:
    assert seed_of(0, "order", 0) == 9018201429233447815
    assert seed_of(1, "dropout", 2, 3, 4) == 2036153421711189255
