"""Noise in the decoder's input against lists that are edited token by token, and what it must never show."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import IGNORED, collate, count, real_inputs
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.mitigations import PreparedMethod
from s2s.mitigations.base import StepContext
from s2s.mitigations.prefix_noise import DuplicateNoise, ShiftNoise, SwapNoise, WordDropout
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws, seed_of

SIZES = st.lists(st.tuples(st.integers(2, 7), st.integers(0, 9)), min_size=1, max_size=6)
RATES = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])
SEEDS = st.integers(0, 1000)
few = settings(deadline=None, max_examples=25)
KINDS = [WordDropout, DuplicateNoise, ShiftNoise, SwapNoise]
END = 3


def context_of(batch, model=None, strength=1.0, name="noise"):
    passes = None if model is None else Passes(model, 0.0, model)
    return StepContext(passes, Draws(batch.seeds, name), count(batch), 0, strength)


def numbered(sizes, epoch=0):
    """A batch whose targets are 10, 11, 12 ..., so that each token tells its column."""
    pairs = [([2, *range(4, source + 2), END], list(range(10, 10 + target))) for source, target in sizes]
    return collate(pairs, 0, END, [seed_of(epoch, row) for row in range(len(sizes))])


def copies_of(length, rows, epoch=0):
    return numbered([(4, length)] * rows, epoch)


def columns_of(sizes):
    return [(row, column) for row, (_, target) in enumerate(sizes) for column in range(1, target + 1)]


def near(count, trials, chance):
    return abs(count - trials * chance) <= 5 * math.sqrt(trials * chance * (1 - chance))


def edited(kind, tokens, hits):
    """The decoder inputs ``tokens`` of one row, edited as a list, and the columns whose label must not count."""
    if kind is DuplicateNoise:
        return [token for token, hit in zip(tokens, hits, strict=True) for _ in range(1 + hit)][: len(tokens)], []
    if kind is ShiftNoise:
        kept = [token for token, hit in zip(tokens[1:], hits[1:], strict=True) if not hit]
        return [END] * (len(tokens) - len(kept)) + kept, []
    edited_tokens, ignored, column = list(tokens), [], 0
    while column < len(tokens) - 1:
        if hits[column]:
            edited_tokens[column], edited_tokens[column + 1] = edited_tokens[column + 1], edited_tokens[column]
            ignored.append(column)
        column += 1 + hits[column]
    return edited_tokens, ignored


@given(sizes=SIZES, rate=RATES, seed=SEEDS, kind=st.sampled_from([DuplicateNoise, ShiftNoise, SwapNoise]))
@few
def test_moved_tokens_are_a_list_edited_token_by_token(sizes, rate, seed, kind):
    batch, noise = numbered(sizes, seed), kind(rate=rate)
    hits, fed = noise.hits(batch, context_of(batch)), noise.feed(batch, context_of(batch))
    for row, (_, target) in enumerate(sizes):
        length = target + 1
        tokens, ignored = edited(kind, batch.target[row, :length].tolist(), hits[row, :length].tolist())
        assert fed.target[row, :length].tolist() == tokens
        labels = batch.labels[row].tolist()
        expected = [IGNORED if column in ignored else label for column, label in enumerate(labels)]
        assert fed.labels[row].tolist() == expected


@given(sizes=SIZES, rate=RATES, seed=SEEDS, kind=st.sampled_from(KINDS))
@few
def test_begin_symbol_padding_source_and_seeds_are_never_touched(sizes, rate, seed, kind):
    batch, noise = numbered(sizes, seed), kind(rate=rate)
    fed = noise.feed(batch, context_of(batch))
    assert fed.target[:, 0].tolist() == [END] * len(sizes)
    assert torch.equal(fed.target[~real_inputs(batch)], batch.target[~real_inputs(batch)])
    assert torch.equal(real_inputs(fed), real_inputs(batch))
    assert fed.source is batch.source
    assert fed.source_lengths is batch.source_lengths
    assert fed.seeds is batch.seeds


@given(sizes=SIZES, rate=RATES, seed=SEEDS, kind=st.sampled_from([DuplicateNoise, ShiftNoise]))
@few
def test_no_column_reads_a_later_one(sizes, rate, seed, kind):
    batch = numbered(sizes, seed)
    fed = kind(rate=rate).feed(batch, context_of(batch))
    for row, column in columns_of(sizes):
        token = int(fed.target[row, column])
        assert token == END or token - 9 <= column
    assert fed.labels is batch.labels


@given(sizes=SIZES, rate=RATES, seed=SEEDS)
@few
def test_a_swap_takes_the_label_where_the_column_or_one_before_it_reads_it(sizes, rate, seed):
    batch = numbered(sizes, seed)
    fed = SwapNoise(rate=rate).feed(batch, context_of(batch))
    for row, (_, target) in enumerate(sizes):
        assert sorted(fed.target[row, 1 : target + 1]) == sorted(batch.target[row, 1 : target + 1])
        for column in range(target + 1):
            label, read = int(batch.labels[row, column]), fed.target[row, : column + 1].tolist()
            shown = label != END and label in read
            assert int(fed.labels[row, column]) == (IGNORED if shown else label)


@given(sizes=SIZES, seed=SEEDS)
@few
def test_rate_and_gate_of_one_touch_each_token_and_none_else(sizes, seed):
    batch = numbered(sizes, seed)
    hits = WordDropout(rate=1.0).hits(batch, context_of(batch))
    assert [tuple(hit) for hit in hits.nonzero().tolist()] == columns_of(sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("keys", "strength"), [({"rate": 0.0}, 1.0), ({"gate": 0.0}, 1.0), ({"position_decay": 1.0}, 1.0), ({}, 0.0)]
)
def test_without_rate_gate_or_strength_the_batch_stays(kind, keys, strength):
    batch = copies_of(6, 50)
    fed = kind(**({"rate": 1.0} | keys)).feed(batch, context_of(batch, strength=strength))
    torch.testing.assert_close(fed, batch, rtol=0, atol=0)


@pytest.mark.parametrize(("rate", "gate", "strength"), [(0.3, 0.5, 1.0), (0.3, 1.0, 0.5), (0.9, 0.2, 0.7), (1, 0.5, 1)])
def test_the_gate_opens_examples_and_the_rate_counts_inside_them(rate, gate, strength):
    batch = copies_of(8, 4000)
    hits = WordDropout(rate=rate, gate=gate).hits(batch, context_of(batch, strength=strength))[:, 1:]
    chance = rate * strength
    assert near(int(hits.any(dim=1).sum()), 4000, gate * (1 - (1 - chance) ** 8))
    opened = context_of(batch).draws.uniform("gate", 1)[:, 0] < gate
    assert near(int(opened.sum()), 4000, gate)
    assert not hits[~opened].any()
    for column in range(8):
        assert near(int(hits[opened, column].sum()), int(opened.sum()), chance)


def test_with_decay_the_rate_grows_with_the_token_s_number():
    batch = copies_of(8, 4000)
    hits = WordDropout(rate=0.8, position_decay=0.7).hits(batch, context_of(batch))
    for number in range(1, 9):
        assert near(int(hits[:, number].sum()), 4000, 0.8 * (1 - 0.7**number))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_order_and_padding_change_nothing(kind):
    sizes = [(4, 5), (7, 9), (3, 1), (5, 0), (6, 7)]
    batch, noise = numbered(sizes), kind(rate=0.5, gate=0.8, position_decay=0.3)
    whole = noise.feed(batch, context_of(batch))
    for rows in ([0], [2, 0], [4, 3, 1], [3]):
        part = numbered([sizes[row] for row in rows])._replace(seeds=batch.seeds[rows])
        fed = noise.feed(part, context_of(part))
        for index, row in enumerate(rows):
            length = sizes[row][1] + 1
            assert torch.equal(fed.target[index, :length], whole.target[row, :length])
            assert torch.equal(fed.labels[index, :length], whole.labels[row, :length])
    assert not torch.equal(noise.feed(numbered(sizes, 1), context_of(numbered(sizes, 1))).target, whole.target)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_noisy_batch_over_all_its_labels(random_model, kind):
    model, batch = random_model(vocabulary=40), numbered([(5, 6), (7, 3), (3, 8)])
    noise = kind(rate=0.5)
    losses = Objective(model, ObjectiveSettings(), [PreparedMethod("noise", noise)])(batch)
    plain = Objective(model, ObjectiveSettings())
    fed = noise.feed(batch, context_of(batch))
    torch.testing.assert_close(losses.total, plain.nll(fed) / count(batch).target_tokens)
    assert abs(losses.total - plain(batch).total) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("key", "value"), [("rate", 1.5), ("gate", -0.1), ("position_decay", 2)])
def test_a_key_out_of_range_is_refused_by_name(kind, key, value):
    with pytest.raises(UserError, match=rf"^{key}: {value} is not in \[0, 1\]"):
        kind(**{key: value})
