"""Two passes, source and target, against one masked forward over both: BERT's own and one spelt out here."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from s2s.batch import IGNORED

SIZES = st.lists(st.tuples(st.integers(2, 9), st.integers(0, 6)), min_size=1, max_size=4)
SEEDS = st.integers(0, 1000)
NORMS = ("pre", "post")
few = settings(deadline=None, max_examples=12)
precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])


def bert_names(layers):
    """Our name of each parameter and BERT's, three in a row where ours is three in one."""
    tables = {"tokens": "word", "positions": "position", "segments": "token_type"}
    names = {f"embedding.{t}.weight": [f"bert.embeddings.{name}_embeddings.weight"] for t, name in tables.items()}
    modules = {
        "embedding.norm": ["bert.embeddings.LayerNorm"],
        "transform.0": ["cls.predictions.transform.dense"],
        "transform.2": ["cls.predictions.transform.LayerNorm"],
    }
    for layer in range(layers):
        ours, theirs = f"blocks.{layer}", f"bert.encoder.layer.{layer}"
        modules |= {
            f"{ours}.attention.query_key_value": [f"{theirs}.attention.self.{n}" for n in ("query", "key", "value")],
            f"{ours}.attention.output": [f"{theirs}.attention.output.dense"],
            f"{ours}.attention_norm": [f"{theirs}.attention.output.LayerNorm"],
            f"{ours}.feed_forward.0": [f"{theirs}.intermediate.dense"],
            f"{ours}.feed_forward.2": [f"{theirs}.output.dense"],
            f"{ours}.feed_forward_norm": [f"{theirs}.output.LayerNorm"],
        }
    for kind in ("weight", "bias"):
        names |= {f"{ours}.{kind}": [f"{name}.{kind}" for name in theirs] for ours, theirs in modules.items()}
    return names | {"output_bias": ["cls.predictions.bias"]}


def bert_like(model, names):
    shape = model.shape
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        attn_implementation="eager",
    )
    bert = BertForMaskedLM(config).to(model.output_bias.dtype).eval()
    state = model.state_dict()
    for ours, theirs in names.items():
        for name, part in zip(theirs, state.pop(ours).chunk(len(theirs)), strict=True):
            bert.get_parameter(name).data.copy_(part)
    assert not state
    return bert


def bert_joint(bert, batch):
    """BERT's rows of [source | target] under UniLM's mask, which is added to its attention scores."""
    columns, rows = batch.source.shape[1], torch.arange(len(batch.source))
    total = columns + batch.target.shape[1]
    visible = torch.zeros(len(rows), total, total, dtype=torch.bool)
    positions, segments = torch.zeros(2, len(rows), total, dtype=torch.long)
    for row, length in enumerate(batch.source_lengths.tolist()):
        visible[row, :, :length] = True
        for column in range(columns, total):
            visible[row, column, columns : column + 1] = True
        positions[row] = torch.tensor([*range(columns), *range(length, length + total - columns)])
        segments[row, columns:] = 1
    hidden = bert.bert(
        torch.cat([batch.source, batch.target], dim=1),
        attention_mask=torch.zeros(visible.shape, dtype=bert.dtype).masked_fill(~visible, -torch.inf)[:, None],
        position_ids=positions,
        token_type_ids=segments,
    ).last_hidden_state
    return hidden[:, :columns], hidden[:, columns:]


def rows_spelt_out(model, source, target):
    """The target's rows of one example with pre-normalisation: one sequence, one mask, head after head."""
    weights = dict(model.named_parameters())

    def normed(x, name):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + model.shape.epsilon).sqrt()
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def linear(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    first, total, each = len(source), len(source) + len(target), model.shape.width // model.shape.heads
    visible = [[column < first or first <= column <= row for column in range(total)] for row in range(total)]
    x = weights["embedding.tokens.weight"][torch.cat([source, target])] + weights["embedding.positions.weight"][:total]
    x = x + weights["embedding.segments.weight"][[0] * first + [1] * len(target)]
    for layer in range(model.shape.layers):
        name = f"blocks.{layer}."
        projected = linear(normed(x, name + "attention_norm"), name + "attention.query_key_value")
        heads = []
        for head in range(model.shape.heads):
            query, key, value = (part[:, head * each : (head + 1) * each] for part in projected.chunk(3, dim=1))
            chances = (query @ key.T / math.sqrt(each)).exp() * torch.tensor(visible)
            heads.append(chances / chances.sum(dim=1, keepdim=True) @ value)
        x = x + linear(torch.cat(heads, dim=1), name + "attention.output")
        inner = linear(normed(x, name + "feed_forward_norm"), name + "feed_forward.0")
        x = x + linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, name + "feed_forward.2")
    return normed(x, "final_norm")[first:]


def hidden_of(model, batch):
    return model.decode(batch.target, model.encode(batch.source, batch.source_lengths))


def loss_of(logits, labels):
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float):
    assert (ours - theirs).norm() <= tolerance * theirs.norm() + 1e-300


def assert_gradients_close(model, expected, tolerance: float):
    found = [parameter.grad for parameter in model.parameters()]
    assert_close(*(torch.cat([part.flatten() for part in parts]) for parts in (found, expected)), tolerance)
    for ours, theirs in zip(found, expected, strict=True):
        if ours.dtype == torch.float64:  # in float32 the small ones are sums of far larger parts
            assert_close(ours, theirs, tolerance)


@precisions
@pytest.mark.parametrize("transform", [False, True])
@given(sizes=SIZES, seed=SEEDS, layers=st.integers(1, 3))
@few
def test_two_passes_are_one_masked_bert(random_model, random_batch, dtype, tolerance, transform, sizes, seed, layers):
    model = random_model(seed, dtype, norm="post", layers=layers, transform=transform)
    batch = random_batch(sizes, seed)
    names = {ours: theirs for ours, theirs in bert_names(layers).items() if transform or "transform" not in ours}
    bert = bert_like(model, names)
    source_rows, target_rows = bert_joint(bert, batch)
    theirs = loss_of((bert.cls if transform else bert.cls.predictions.decoder)(target_rows), batch.labels)
    ours = loss_of(model.logits(hidden_of(model, batch)), batch.labels)
    assert_close(ours, theirs, tolerance)
    ours.backward()
    theirs.backward()
    expected = [torch.cat([bert.get_parameter(n).grad for n in names[name]]) for name, _ in model.named_parameters()]
    assert_gradients_close(model, expected, tolerance)
    real = torch.arange(batch.source.shape[1]) < batch.source_lengths[:, None]
    # The joint forward had targets behind the source and more than one of them: its rows took nothing from them.
    assert_close(model.source_hidden(batch.source, batch.source_lengths)[real], source_rows[real], tolerance)


@precisions
@given(sizes=SIZES, seed=SEEDS, layers=st.integers(1, 3))
@few
def test_two_passes_are_one_forward_spelt_out_with_pre_normalisation(
    random_model, random_batch, dtype, tolerance, sizes, seed, layers
):
    model, slow = random_model(seed, dtype, layers=layers), random_model(seed, layers=layers)
    batch = random_batch(sizes, seed)
    logits, labels = [], []
    for (source, target), row in zip(sizes, range(len(sizes)), strict=True):
        rows = rows_spelt_out(slow, batch.source[row, :source], batch.target[row, : target + 1])
        logits.append(rows @ slow.embedding.tokens.weight.T + slow.output_bias)
        labels.append(batch.labels[row, : target + 1])
    theirs = functional.cross_entropy(torch.cat(logits), torch.cat(labels))
    ours = loss_of(model.logits(hidden_of(model, batch)), batch.labels)
    assert_close(ours, theirs, tolerance)
    ours.backward()
    theirs.backward()
    assert_gradients_close(model, [parameter.grad for parameter in slow.parameters()], tolerance)


@pytest.mark.parametrize("norm", NORMS)
@given(sizes=SIZES, seed=SEEDS, columns=st.integers(1, 5))
@few
def test_padding_columns_change_nothing(random_model, random_batch, norm, sizes, seed, columns):
    model, batch, wider = random_model(seed, norm=norm), random_batch(sizes, seed), random_batch([(columns + 2, 0)])
    filling = wider.source[:, 1:-1].expand(len(sizes), -1)  # what stands in padding is never looked at
    source, target = (torch.cat([part, filling], dim=1) for part in (batch.source, batch.target))
    padded = hidden_of(model, batch._replace(source=source, target=target))[:, : batch.target.shape[1]]
    torch.testing.assert_close(padded, hidden_of(model, batch))
    encoded = model.source_hidden(source, batch.source_lengths)
    for row, length in enumerate(batch.source_lengths.tolist()):
        alone = model.source_hidden(batch.source[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(encoded[row, :length], alone[0])


@pytest.mark.parametrize("norm", NORMS)
@given(sizes=SIZES, seed=SEEDS, data=st.data())
@few
def test_a_target_row_knows_its_own_source_and_past_only(random_model, random_batch, norm, sizes, seed, data):
    model, batch = random_model(seed, norm=norm), random_batch(sizes, seed)
    row = data.draw(st.integers(0, len(sizes) - 1))
    column = data.draw(st.integers(0, sizes[row][1]))
    source, target = (part.flip(0).roll(1, 1) for part in (batch.source, batch.target))
    source[row], target[row, : column + 1] = batch.source[row], batch.target[row, : column + 1]
    target[row, column + 1 :] = 1 + batch.target[row, column + 1 :] % 20  # another token everywhere
    lengths = torch.full_like(batch.source_lengths, 2)
    lengths[row] = sizes[row][0]
    other = hidden_of(model, batch._replace(source=source, target=target, source_lengths=lengths))
    before = hidden_of(model, batch)
    torch.testing.assert_close(other[row, : column + 1], before[row, : column + 1])
    if column + 1 < batch.target.shape[1]:
        assert not torch.allclose(other[row, column + 1], before[row, column + 1])


@pytest.mark.parametrize("norm", NORMS)
@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=4), copies=st.integers(1, 3), seed=SEEDS)
@few
def test_steps_are_the_columns_of_decode(random_model, random_batch, norm, lengths, copies, seed):
    model, batch = random_model(seed, norm=norm), random_batch([(length, 0) for length in lengths], seed)
    targets = random_batch([(2, 5)] * len(lengths) * copies, seed).target
    memory, cache = model.encode(batch.source, batch.source_lengths), None
    columns = []
    for column in range(targets.shape[1]):
        hidden, cache = model.step(targets[:, column], column, memory, cache)
        columns.append(hidden)
    stepped = torch.stack(columns, dim=1).unflatten(0, (len(lengths), copies))
    for copy in range(copies):
        torch.testing.assert_close(stepped[:, copy], model.decode(targets[copy::copies], memory))


def test_positions_beyond_the_table_are_refused_with_the_numbers(random_model, random_batch):
    model, batch = random_model(positions=8), random_batch([(5, 2), (3, 2)])
    memory = model.encode(batch.source, batch.source_lengths)
    model.decode(batch.target, memory)
    model.step(batch.target[:, 0], 2, memory, None)
    for beyond in (
        lambda: model.decode(random_batch([(2, 3), (2, 3)]).target, memory),
        lambda: model.step(batch.target[:, 0], 3, memory, None),
        lambda: model.encode(*random_batch([(9, 0)])[:2]),
        lambda: model.source_hidden(*random_batch([(9, 0)])[:2]),
    ):
        with pytest.raises(ValueError, match=r"\b9\b.*\b8\b"):
            beyond()


def test_padding_columns_take_no_positions(random_model, random_batch):
    model, batch = random_model(positions=8), random_batch([(3, 4)])
    memory = model.encode(functional.pad(batch.source, (0, 5)), batch.source_lengths)
    torch.testing.assert_close(model.decode(batch.target, memory), hidden_of(model, batch))
    with pytest.raises(ValueError, match=r"\b9\b.*\b8\b"):
        model.decode(random_batch([(2, 5)]).target, memory)


@pytest.mark.parametrize("norm", NORMS)
def test_dropout_is_drawn_anew_in_training_only(random_model, random_batch, norm):
    model, batch, drawn = random_model(norm=norm, dropout=0.3), random_batch([(6, 4)]), []
    assert torch.equal(hidden_of(model, batch), hidden_of(model, batch))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda _, __, dropped: drawn.append((dropped == 0).any()))
    model.train()
    assert not torch.allclose(hidden_of(model, batch), hidden_of(model, batch))
    # Twice: source and target embeddings, both halves of the two blocks for the target and of one for the source.
    assert drawn == [True] * 2 * (2 + 4 + 2)
