"""Targets side by side behind one source, against separate passes; and embeddings in the place of ids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import FIXED, SEEDS, SHAPES, SIZES, embedded, examples, few, gradient, hidden_rows, objective_of
from torch.nn import functional

from s2s.batch import IGNORED, collate
from s2s.losses.passes import Passes
from s2s.losses.terms import Scores

shapes = pytest.mark.parametrize("shape", SHAPES)
LENGTHS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=3)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def candidates(lengths, seed):
    """A source a row, and K targets a row of ragged lengths: K batches of one width that share their sources."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(4, 23, (length,), generator=generator).tolist()

    copies = min(len(row) for row in lengths)
    sources = [[2, *ids(2 + number), 3] for number in range(len(lengths))]
    whole = collate([(s, ids(n)) for s, row in zip(sources, lengths, strict=True) for n in row[:copies]], 0, 3)
    target, labels = (part.unflatten(0, (len(lengths), copies)) for part in (whole.target, whole.labels))
    first = collate([(source, []) for source in sources], 0, 3)
    return [first._replace(target=target[:, copy], labels=labels[:, copy]) for copy in range(copies)]


def summed(hidden, model, labels):
    return functional.cross_entropy(model.logits(hidden)[labels != IGNORED], labels[labels != IGNORED], reduction="sum")


@shapes
@given(lengths=LENGTHS, seed=SEEDS)
@settings(few, max_examples=12)
def test_packed_copies_are_separate_decodes(random_model, shape, lengths, seed):
    model, batches = random_model(seed, **shape), candidates(lengths, seed)
    memory = model.encode(batches[0].source, batches[0].source_lengths)
    packed = torch.cat([batch.target for batch in batches], dim=1)
    found = model.decode(packed, memory, copies=len(batches)).chunk(len(batches), dim=1)
    together = separate = 0.0
    for copy, (rows, batch) in enumerate(zip(found, batches, strict=True)):
        alone = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        same(rows, alone)
        together = together + (copy + 1) * summed(rows, model, batch.labels)
        separate = separate + (copy + 1) * summed(alone, model, batch.labels)
    same(together, separate)
    same(gradient(model, together), gradient(model, separate))


@shapes
@given(lengths=LENGTHS, seed=SEEDS)
@few
def test_a_packed_copy_is_one_whole_sequence(random_model, shape, lengths, seed):
    model, batches = random_model(seed, **shape), candidates(lengths, seed)
    scores = Passes(model, 0.0, model).score_copies(batches)
    assert [type(one) for one in scores] == [Scores] * len(batches)
    for found, batch in zip(scores, batches, strict=True):
        rows = [hidden_rows(model, *reversed(embedded(model, example))) for example in examples(batch)]
        same(found.logits, model.logits(torch.cat(rows)))
        assert found.labels.tolist() == [label for row in batch.labels.tolist() for label in row if label != IGNORED]


@shapes
@given(lengths=LENGTHS, seed=SEEDS, data=st.data())
@few
def test_a_copy_sees_no_other(random_model, shape, lengths, seed, data):
    model, batches = random_model(seed, **shape), candidates(lengths, seed)
    memory = model.encode(batches[0].source, batches[0].source_lengths)
    own = data.draw(st.integers(0, len(batches) - 1))
    width = batches[0].target.shape[1]
    packed = torch.cat([batch.target for batch in batches], dim=1)
    changed = 1 + packed % 20
    changed[:, own * width : (own + 1) * width] = batches[own].target
    before, after = (
        model.decode(ids, memory, copies=len(batches)).chunk(len(batches), dim=1) for ids in (packed, changed)
    )
    same(after[own], before[own])
    assert all(not torch.allclose(after[copy], before[copy]) for copy in range(len(batches)) if copy != own)


@shapes
@given(lengths=LENGTHS, seed=SEEDS)
@few
def test_copies_take_embeddings_in_the_place_of_ids(random_model, shape, lengths, seed):
    model, batches = random_model(seed, **shape), candidates(lengths, seed)
    memory = model.encode(batches[0].source, batches[0].source_lengths)
    packed = torch.cat([batch.target for batch in batches], dim=1)
    words = model.embedding.tokens.weight[packed]
    found = model.decode(torch.zeros_like(packed), memory, words, copies=len(batches))
    same(found, model.decode(packed, memory, copies=len(batches)))


def test_copies_count_positions_once_each(random_model, random_batch):
    model, batch = random_model(positions=8), random_batch([(4, 3)])
    memory = model.encode(batch.source, batch.source_lengths)
    model.decode(batch.target.repeat(1, 4), memory, copies=4)
    with pytest.raises(ValueError, match=r"\b9\b.*\b8\b"):
        model.decode(random_batch([(4, 4)]).target.repeat(1, 2), memory, copies=2)


@shapes
@given(sizes=SIZES, seed=SEEDS)
@few
def test_rows_of_the_table_are_its_ids(random_model, random_batch, shape, sizes, seed):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    table = model.embedding.tokens.weight
    by_ids = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
    memory = model.encode(torch.zeros_like(batch.source), batch.source_lengths, table[batch.source])
    by_words = model.decode(torch.zeros_like(batch.target), memory, table[batch.target])
    same(by_words, by_ids)
    same(*(gradient(model, summed(rows, model, batch.labels)) for rows in (by_words, by_ids)))


@shapes
@given(sizes=SIZES, seed=SEEDS)
@few
def test_an_id_below_zero_is_a_zero_embedding(random_model, random_batch, shape, sizes, seed):
    model, batch = random_model(seed, **shape), random_batch(sizes, seed)
    table, generator = model.embedding.tokens.weight, torch.Generator().manual_seed(seed)
    ids, words = [], []
    for part in (batch.source, batch.target):
        gone = torch.rand(part.shape, generator=generator) < 0.4
        ids.append(part.masked_fill(gone, -1))
        words.append(table[part].masked_fill(gone[..., None], 0.0))
    dropped = batch._replace(source=ids[0], target=ids[1])
    found = model.decode(ids[1], model.encode(ids[0], batch.source_lengths))
    expected = model.decode(batch.target, model.encode(batch.source, batch.source_lengths, words[0]), words[1])
    same(found, expected)
    same(*(gradient(model, summed(rows, model, batch.labels)) for rows in (found, expected)))
    total = objective_of(model)(dropped).total
    same(total, summed(expected, model, batch.labels) / (batch.labels != IGNORED).sum())


def test_another_table_stands_in_for_the_embeddings_on_both_ends(random_model, random_batch):
    model, other, batch = random_model(), random_model(), random_batch(FIXED)
    table = torch.randn(model.embedding.tokens.weight.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    other.embedding.tokens.weight.data = table
    same(model.words(batch.target, table), other.words(batch.target))
    hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
    same(model.logits(hidden, table), other.logits(hidden))
    assert not torch.allclose(model.logits(hidden), other.logits(hidden))
