"""Candidates: their packed log-probabilities, and sampling against enumeration."""

import pytest
import torch
from enumeration import all_sequences, assert_frequencies
from hypothesis import given
from hypothesis import strategies as st
from naive import SEEDS, SHAPES, SIZES, few, gradient, rows_of
from sequences import (
    END,
    MAX_LENGTH,
    Letters,
    candidates_strategy,
    context_of,
    log_prob,
    sampled,
    searched,
    shared,
    target_of,
    with_idle,
)

from s2s.batch import collate
from s2s.mitigations.candidates import Candidate, gold, pack, rewards, sample
from s2s.randomness import seed_of

shapes = pytest.mark.parametrize("shape", SHAPES)


def dealt(data, sizes):
    return [data.draw(candidates_strategy()) for _ in sizes]


def copies_of(source, rows):
    return collate([(source, [])] * rows, 0, END)


@shapes
@given(sizes=SIZES, seed=SEEDS, data=st.data())
@few
def test_packed_log_probabilities_are_those_of_each_one_alone(random_model, random_batch, shape, sizes, seed, data):
    model, batch, rows = random_model(seed, **shape), random_batch(sizes, seed), dealt(data, sizes)
    packed = pack(rows, torch.full((len(rows),), END), END)
    log_probs = packed.log_probs(context_of(batch, model).passes, batch)
    assert log_probs.shape == packed.lengths().shape == (len(sizes), max(map(len, rows)))
    scale = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(seed), dtype=log_probs.dtype)
    naive = 0.0
    for row, column in torch.cartesian_prod(*map(torch.arange, log_probs.shape)).tolist():
        if column < len(rows[row]):
            alone = log_prob(model, batch, row, rows[row][column])
            torch.testing.assert_close(log_probs[row, column], alone, rtol=1e-10, atol=0.0)
            assert packed.lengths()[row, column] == len(rows[row][column].ids) + rows[row][column].ended
            naive = naive + scale[row, column] * alone
        else:
            assert log_probs[row, column] == packed.lengths()[row, column] == 0
    packed_gradient, naive_gradient = gradient(model, (scale * log_probs).sum()), gradient(model, naive)
    assert (packed_gradient - naive_gradient).norm() <= 1e-9 * naive_gradient.norm()


@given(rows=st.lists(st.lists(st.sampled_from(all_sequences(6, 2)), min_size=1, max_size=5), min_size=1, max_size=3))
@few
def test_a_candidate_is_distinct_where_it_comes_first(rows):
    distinct = pack(rows, torch.full((len(rows),), END), END).distinct()
    for row, candidates in enumerate(rows):
        expected = [candidate not in candidates[:column] for column, candidate in enumerate(candidates)]
        assert distinct[row].tolist() == expected + [False] * (distinct.shape[1] - len(candidates))


def test_gold_is_what_the_batch_was_made_of_and_rewards_are_a_loop(random_batch):
    batch = with_idle(random_batch([(5, 4), (3, 0), (4, 2)]), 2)
    golds = gold(batch, END)
    assert golds == [target_of(batch, 0), Candidate([], True), Candidate([], False)]
    rows = [[golds[0], Candidate([4, 5], True), Candidate([], True)], [Candidate([6] * 4, False)], [golds[0]]]
    values, letters = rewards(rows, golds, shared, Letters()), Letters()
    for row, candidates in enumerate(rows):
        expected = [shared(letters.decode(candidate.ids), letters.decode(golds[row].ids)) for candidate in candidates]
        assert values[row].tolist() == expected + [0.0] * (3 - len(candidates))


@shapes
@given(sizes=SIZES, seed=SEEDS)
@few
def test_samples_and_the_greedy_one_are_those_of_whole_passes(random_model, random_batch, shape, sizes, seed):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    model.output_bias.data[END] += 2.0  # so that some end
    context = context_of(batch, model)
    assert sample(batch, context, 3, MAX_LENGTH, END) == sampled(model, batch, "mrt", 3)
    greedy = sample(batch, context, 1, MAX_LENGTH, END, greedy=True)
    assert greedy == [[searched(model, batch, row, None)] for row in range(len(sizes))]


@pytest.mark.parametrize("length", [1, 2])
def test_samples_are_as_frequent_as_the_model_says(random_model, length):
    model, rows, copies = random_model(3, vocabulary=5), 6000, 2
    batch = copies_of([2, 4, END], rows)
    outcomes = all_sequences(5, length)
    chances = [float(log_prob(model, batch, 0, candidate).detach().exp()) for candidate in outcomes]
    samples = sample(batch, context_of(batch, model), copies, length, END)
    flat = [candidate for row in samples for candidate in row]
    assert_frequencies([flat.count(candidate) for candidate in outcomes], chances)
    # Two candidates of a source are independent.
    pairs = [(first, second) for first in range(len(outcomes)) for second in range(len(outcomes))]
    places = [tuple(outcomes.index(candidate) for candidate in row) for row in samples]
    joint = [chances[first] * chances[second] for first, second in pairs]
    assert_frequencies([places.count(pair) for pair in pairs], joint)


def test_what_a_row_samples_depends_on_its_seed_alone(random_model, random_batch):
    model, sizes = random_model(), [(4, 5), (7, 3), (3, 1), (5, 0)]
    batch = random_batch(sizes)
    whole = sample(batch, context_of(batch, model), 3, MAX_LENGTH, END)
    for rows in ([0], [2, 0], [3, 1, 2]):
        part = rows_of(batch, rows)
        assert sample(part, context_of(part, model), 3, MAX_LENGTH, END) == [whole[row] for row in rows]
    assert sample(batch, context_of(batch, model), 2, MAX_LENGTH, END) == [row[:2] for row in whole]
    other = batch._replace(seeds=torch.tensor([seed_of("other epoch", row) for row in range(len(sizes))]))
    assert sample(other, context_of(other, model), 3, MAX_LENGTH, END) != whole
    assert sample(batch, context_of(batch, model, "self_critical"), 3, MAX_LENGTH, END) != whole


@pytest.mark.parametrize("greedy", [False, True])
def test_a_sample_stops_at_the_limit_without_an_end_and_where_all_have_ended(random_model, random_batch, greedy):
    model, batch, steps = random_model(), random_batch([(4, 2), (3, 1)]), []
    step = model.step
    model.step = lambda *given: steps.append(given[1]) or step(*given)
    model.output_bias.data[END] = -1e4
    samples = sample(batch, context_of(batch, model), 2, 3, END, greedy)
    assert [len(candidate.ids) for row in samples for candidate in row] == [3] * 4
    assert not any(candidate.ended for row in samples for candidate in row)
    assert steps == [0, 1, 2]
    model.output_bias.data[END] = 1e4
    assert sample(batch, context_of(batch, model), 2, 3, END, greedy) == [[Candidate([], True)] * 2] * 2
    assert steps == [0, 1, 2, 0]


def test_candidates_begin_with_the_first_decoder_input_of_their_row(random_model, random_batch):
    model, batch, begin = random_model(), random_batch([(4, 2), (3, 1)]), torch.tensor([3, 4])
    batch = batch._replace(target=torch.cat([begin[:, None], batch.target[:, 1:]], dim=1))
    first = model.logits(model.decode(begin[:, None], model.encode(batch.source, batch.source_lengths)))[:, 0]
    samples = sample(batch, context_of(batch, model), 2, 1, END, greedy=True)
    likeliest = [Candidate([], True) if id == END else Candidate([id], False) for id in first.argmax(dim=-1).tolist()]
    assert samples == [[candidate] * 2 for candidate in likeliest]
    assert pack(samples, begin, END).target[..., 0].tolist() == [[3, 3], [4, 4]]


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_mode_and_the_source_s_gradient_and_drops_nothing_of_the_target(
    random_model, random_batch, training
):
    model, batch = random_model(dropout=0.5).train(training), random_batch([(5, 2), (4, 3)])
    model.blocks[0].train(not training)
    modes = [part.training for part in model.modules()]
    context = context_of(batch, model)
    samples = sample(batch, context, 3, MAX_LENGTH, END, greedy=True)
    assert [part.training for part in model.modules()] == modes
    memory = context.passes.memory(batch)
    assert all(part.requires_grad for layer in memory.layers for part in layer)
    again = sample(batch, context, 3, MAX_LENGTH, END, greedy=True)
    assert samples == again
    model.eval()
    for row, candidates in enumerate(samples):
        inputs = torch.full((2, 1), END)
        for column, token in enumerate([*candidates[0].ids, *[END] * candidates[0].ended]):
            assert model.logits(model.decode(inputs, memory))[row, column].argmax() == token
            inputs = torch.cat([inputs, torch.full((2, 1), token)], dim=1)
