"""Synthesised attention in the prefix LM: passes, steps, copies and searches against one masked sequence by slot."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from naive import SEEDS, SIZES, examples, gradient
from slotted import CHOSEN, SLOTS, VARIANTS, hidden_rows
from torch.nn import functional

from s2s.batch import IGNORED
from s2s.inference.model_scorer import PrefixScorer
from s2s.search import beam_search

few = settings(deadline=None, max_examples=2, phases=[Phase.explicit, Phase.generate])
variants = pytest.mark.parametrize("attention", VARIANTS)
chosen = pytest.mark.parametrize("attention", CHOSEN)


@pytest.fixture(scope="module")
def slotted_model(random_model):
    def make(attention, seed=0, **shape):
        return random_model(seed, attention=attention, **(SLOTS | shape))

    return make


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def hidden_of(model, batch):
    return model.decode(batch.target, model.encode(batch.source, batch.source_lengths))


def loss_of(model, hidden, labels):
    real = labels != IGNORED
    return functional.cross_entropy(model.logits(hidden[real]), labels[real], reduction="sum")


@variants
@given(sizes=SIZES, seed=SEEDS, norm=st.sampled_from(["pre", "post"]))
@few
def test_two_passes_are_one_masked_sequence_by_slot(slotted_model, random_batch, attention, norm, sizes, seed):
    model, batch = slotted_model(attention, seed, norm=norm), random_batch(sizes, seed)
    rows = [hidden_rows(model, one.source, one.target) for one in examples(batch)]
    labels = torch.cat([one.labels for one in examples(batch)])
    expected = functional.cross_entropy(model.logits(torch.cat(rows)), labels, reduction="sum")
    found = loss_of(model, hidden_of(model, batch), batch.labels)
    same(found, expected)
    same(gradient(model, found), gradient(model, expected))


@variants
@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=3), copies=st.integers(1, 3), seed=SEEDS)
@few
def test_steps_are_the_columns_of_decode(slotted_model, random_batch, attention, lengths, copies, seed):
    model, batch = slotted_model(attention, seed), random_batch([(length, 0) for length in lengths], seed)
    targets = random_batch([(2, 5)] * len(lengths) * copies, seed).target
    memory, cache, columns = model.encode(batch.source, batch.source_lengths), None, []
    for column in range(targets.shape[1]):
        hidden, cache = model.step(targets[:, column], column, memory, cache)
        columns.append(hidden)
    stepped = torch.stack(columns, dim=1).unflatten(0, (len(lengths), copies))
    for copy in range(copies):
        same(stepped[:, copy], model.decode(targets[copy::copies], memory))


@variants
def test_the_caches_hold_keys_only_where_they_are_needed(slotted_model, random_batch, attention):
    model, batch = slotted_model(attention), random_batch([(5, 2)])
    memory = model.encode(batch.source, batch.source_lengths)
    _, cache = model.step(batch.target[:, 0], 0, memory, None)
    layers = attention.split(",") if "," in attention else [attention] * 2
    expected = [2 if "dot" in layer.split("+") else 1 for layer in layers]
    assert [len(layer) for layer in memory.layers] == [len(layer) for layer in cache] == expected


@chosen
@given(sizes=SIZES, seed=SEEDS)
@few
def test_padding_and_neighbours_change_nothing(slotted_model, random_batch, attention, sizes, seed):
    model, batch = slotted_model(attention, seed), random_batch(sizes, seed)
    together = hidden_of(model, batch)
    source, target = functional.pad(batch.source, (0, 3), value=7), functional.pad(batch.target, (0, 2), value=9)
    padded = hidden_of(model, batch._replace(source=source, target=target))
    same(padded[:, : batch.target.shape[1]], together)
    encoded = model.source_hidden(source, batch.source_lengths)
    for row, one in enumerate(examples(batch)):
        lengths = batch.source_lengths[row : row + 1]
        alone = model.decode(one.target[None], model.encode(one.source[None], lengths))
        same(together[row, : len(one.target)], alone[0])
        same(encoded[row, : len(one.source)], model.source_hidden(one.source[None], lengths)[0])


@chosen
@given(sizes=SIZES, seed=SEEDS, data=st.data())
@few
def test_a_target_row_knows_its_own_source_and_past_only(slotted_model, random_batch, attention, sizes, seed, data):
    model, batch = slotted_model(attention, seed), random_batch(sizes, seed)
    row = data.draw(st.integers(0, len(sizes) - 1))
    column = data.draw(st.integers(0, sizes[row][1]))
    source, target = 1 + batch.source % 20, 1 + batch.target % 20
    source[row], target[row, : column + 1] = batch.source[row], batch.target[row, : column + 1]
    before, after = hidden_of(model, batch), hidden_of(model, batch._replace(source=source, target=target))
    same(after[row, : column + 1], before[row, : column + 1])
    if column + 1 < batch.target.shape[1]:
        assert not torch.allclose(after[row, column + 1], before[row, column + 1])


@chosen
@given(sizes=SIZES, copies=st.integers(2, 3), seed=SEEDS)
@few
def test_packed_copies_are_separate_decodes(slotted_model, random_batch, attention, sizes, copies, seed):
    model, batch = slotted_model(attention, seed), random_batch(sizes, seed)
    targets = [1 + (batch.target + 5 * copy) % 20 for copy in range(copies)]
    memory = model.encode(batch.source, batch.source_lengths)
    packed = model.decode(torch.cat(targets, dim=1), memory, copies=copies)
    separate = torch.cat([model.decode(target, memory) for target in targets], dim=1)
    same(packed, separate)
    factors = torch.randn(packed.shape, dtype=packed.dtype, generator=torch.Generator().manual_seed(seed))
    same(*(gradient(model, (factors * rows).sum()) for rows in (packed, separate)))


@chosen
@given(lengths=st.lists(st.integers(2, 11), min_size=1, max_size=4), beams=st.integers(1, 3), seed=SEEDS)
@few
def test_the_cached_search_of_many_is_that_of_each_alone(slotted_model, random_batch, attention, lengths, beams, seed):
    model = slotted_model(attention, seed)
    model.output_bias.data[3] += 1
    batch = random_batch([(length, 0) for length in lengths], seed)

    def search(source, lengths):
        return beam_search(PrefixScorer(model, source, lengths, 3, 3), beams, 8, beams)

    found = search(batch.source, batch.source_lengths)
    for row, length in enumerate(lengths):
        (alone,) = search(batch.source[row : row + 1, :length], torch.tensor([length]))
        assert [tokens for tokens, _ in alone] == [tokens for tokens, _ in found[row]]
        for tokens, score in alone:  # each score is the sum of what one pass over the whole hypothesis gives
            memory = model.encode(batch.source[row : row + 1, :length], torch.tensor([length]))
            rows = model.decode(torch.tensor([[3, *tokens][:8]]), memory)[0]
            chances = model.logits(rows).float().log_softmax(dim=-1)
            labels = [*tokens, 3][:8]
            assert abs(sum(chances[t, label] for t, label in enumerate(labels)) - score) < 1e-4


def test_what_is_beyond_the_slots_is_refused_with_the_numbers(slotted_model, random_batch):
    model, batch = slotted_model("dot,random"), random_batch([(11, 7)])
    memory = model.encode(batch.source, batch.source_lengths)
    model.decode(batch.target.repeat(1, 3), memory, copies=3)
    model.step(batch.target[:, 0], 7, memory, None)
    longer = random_batch([(2, 8)]).target
    for beyond in (lambda: model.decode(longer, memory), lambda: model.step(longer[:, 0], 8, memory, None)):
        with pytest.raises(ValueError, match="a target of 9 tokens is beyond the model's 8 target slots"):
            beyond()
    for encode in (model.encode, model.source_hidden):
        with pytest.raises(ValueError, match="a source of 12 tokens is beyond the model's 11 source slots"):
            encode(*random_batch([(12, 0)])[:2])
