"""The weights of synthesised attention, read off by one-hot values, and what they depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slotted import HEADS, MIXED, SHARED, SINGLE, SIZES, SLOTS, WIDTH, attention_of, drawn, part_of, scores
from torch import nn

from s2s.model.attention import Slots
from s2s.model.attention_scores import SCORES, Columns

FIRST = SLOTS["source_slots"]
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=3)
SEEDS = st.integers(0, 1000)
few = settings(deadline=None, max_examples=6)
every = pytest.mark.parametrize("name", ["dot", *SINGLE, *MIXED])


class OneHot(nn.Module):
    """Values that say which column they stand in."""

    def __init__(self, columns, first):
        super().__init__()
        self.rows = torch.eye(columns, dtype=torch.float64)[first:]

    def forward(self, x):
        return self.rows[: x.shape[1]].repeat(1, HEADS).expand(len(x), -1, -1)


def weights_of(attention, source, target, lengths):
    """The weights of source rows [B, H, S, S] and of target rows [B, H, T, S + T]."""
    width, height = source.shape[1], target.shape[1]
    hidden = (torch.arange(width) >= torch.tensor(lengths)[:, None])[:, None, None]
    mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    past = torch.full((height, height), -torch.inf, dtype=torch.float64).triu(1)
    both = torch.cat([mask.expand(-1, -1, height, -1), past.expand(len(lengths), 1, -1, -1)], dim=-1)
    value, output, attention.output = attention.value, attention.output, nn.Identity()
    attention.value = OneHot(width + height, 0)
    on_source, memory = attention(source, mask, None, Slots(0, width))
    attention.value = OneHot(width + height, width)
    on_both, _ = attention(target, both, memory, Slots(FIRST, height))
    attention.value, attention.output = value, output
    split = [rows.unflatten(-1, (HEADS, -1)).transpose(1, 2) for rows in (on_source, on_both)]
    return split[0][..., :width], split[1]


def naive_weights(attention, x, slots, visible):
    state = dict(attention.named_parameters()) | dict(attention.named_buffers())
    found = []
    for head in range(HEADS):
        kinds = list(attention.parts)
        shares = state["mixture"][:, head].exp() if len(kinds) > 1 else torch.ones(1)
        parts = [scores(part_of(state, f"parts.{kind}."), kind, x, slots, HEADS, head) for kind in kinds]
        mixed = sum(share * part for share, part in zip(shares / shares.sum(), parts, strict=True))
        chances = mixed.exp() * visible
        found.append(chances / chances.sum(dim=1, keepdim=True))
    return torch.stack(found)


@every
@given(lengths=LENGTHS, height=st.integers(1, 5), seed=SEEDS)
@few
def test_rows_are_a_softmax_over_what_they_may_see(name, lengths, height, seed):
    attention, width = attention_of(name, seed), max(lengths)
    source, target = drawn(seed, len(lengths), width, WIDTH), drawn(seed + 1, len(lengths), height, WIDTH)
    on_source, on_both = weights_of(attention, source, target, lengths)
    for row, length in enumerate(lengths):
        total = length + height
        visible = torch.tensor([[k < length or length <= k <= q for k in range(total)] for q in range(total)])
        x = torch.cat([source[row, :length], target[row]])
        expected = naive_weights(attention, x, [*range(length), *range(FIRST, FIRST + height)], visible)
        columns = [*range(length), *range(width, width + height)]
        torch.testing.assert_close(on_both[row][:, :, columns], expected[:, length:])
        torch.testing.assert_close(on_source[row, :, :length, :length], expected[:, :length, :length])
        assert not on_both[row, :, :, length:width].any()
        assert not on_both[row, ..., width:].triu(1).any()
        assert not on_source[row, ..., length:].any()
    for found in (on_source, on_both):
        torch.testing.assert_close(found.sum(dim=-1), torch.ones_like(found[..., 0]))


@every
def test_random_weights_know_no_input_and_dense_ones_their_own_row(name):
    attention, kinds = attention_of(name), set(name.split("+"))
    source, target = drawn(1, 2, 5, WIDTH), drawn(2, 2, 4, WIDTH)
    other = target.clone()
    other[:, 1] += 1
    before, after = (weights_of(attention, source, rows, [5, 5])[1] for rows in (target, other))
    changed = [not torch.equal(after[:, :, row], before[:, :, row]) for row in range(4)]
    # The changed row stands in columns 6 of rows 1 to 3.
    assert changed == [False, not kinds <= set(SHARED), "dot" in kinds, "dot" in kinds]
    assert torch.allclose(before[0], before[1]) == (kinds <= set(SHARED))


@every
def test_the_width_of_the_source_changes_no_weight(name):
    attention, source, target = attention_of(name), drawn(1, 1, 7, WIDTH), drawn(2, 1, 4, WIDTH)
    _, narrow = weights_of(attention, source[:, :3], target, [3])
    _, wide = weights_of(attention, source, target, [3])
    torch.testing.assert_close(wide[..., [0, 1, 2, 7, 8, 9, 10]], narrow)
    _, longer = weights_of(attention, source, target, [7])  # the columns seen by both keep their odds
    odds = [found / found[..., :1] for found in (narrow, longer[..., [0, 1, 2, 7, 8, 9, 10]])]
    torch.testing.assert_close(*odds)


def test_factorized_random_scores_have_low_rank_and_rows_that_differ():
    part = SCORES["factorized_random"](SIZES)
    whole = Slots(0, SIZES.slots)
    found = part(torch.zeros(1, 1, WIDTH), whole, Columns(0, whole), None, ())
    assert found.shape == (HEADS, SIZES.slots, SIZES.slots)
    assert torch.linalg.matrix_rank(found).tolist() == [SIZES.rank] * HEADS
    assert ((found[:, 1:] - found[:, :1]).abs().amax(dim=-1) > 0.1).all()


@given(slots=st.integers(1, 40))
@few
def test_factorized_dense_slots_are_all_pairs_of_two_factors(slots):
    part = SCORES["factorized_dense"](SIZES._replace(slots=slots)).double()  # type: ignore[attr-defined]
    tiled, repeated = part.tiled, part.repeated
    assert tiled * repeated >= slots > (tiled - 1) * (repeated - 1)
    part.factors.data.zero_()
    part.bias.data[:, 0] = 2.0 ** torch.arange(tiled + repeated, dtype=torch.float64)
    found = part(drawn(0, 1, 1, WIDTH), Slots(0, 1), Columns(0, Slots(0, slots)), None, ())[0, 0, 0]
    pairs = [2.0 ** (n % tiled) * 2.0 ** (tiled + n // tiled) for n in range(slots)]
    assert found.tolist() == pairs
    assert len({(n % tiled, n // tiled) for n in range(slots)}) == slots


@pytest.mark.parametrize("name", MIXED)
def test_one_hot_mixtures_are_their_parts_to_the_bit(name):
    mixed, kinds = attention_of(name), name.split("+")
    source, target = drawn(1, 2, 5, WIDTH), drawn(2, 2, 4, WIDTH)
    for index, kind in enumerate(kinds):
        mixed.mixture.data.zero_()
        mixed.mixture.data[index] = 2000.0
        alone = attention_of(kind)
        alone.load_state_dict({k: v for k, v in mixed.state_dict().items() if k in alone.state_dict()})
        passes = [weights_of(attention, source, target, [5, 3]) for attention in (mixed, alone)]
        same_way = (kind in SHARED) == (set(kinds) <= set(SHARED))
        for found, expected in zip(*passes, strict=True):
            torch.testing.assert_close(found, expected, rtol=0 if same_way else 1e-12, atol=0 if same_way else 1e-15)
        slots = Slots(FIRST, 4)
        found = mixed.scores(target, slots, Columns(5, slots), mixed.remember(source), mixed.remember(target))
        expected = alone.scores(target, slots, Columns(5, slots), alone.remember(source), alone.remember(target))
        assert torch.equal(*torch.broadcast_tensors(found, expected))


def test_scores_of_zero_are_a_running_mean():
    attention = attention_of("random")
    attention.parts["random"].table.data.zero_()
    on_source, on_both = weights_of(attention, drawn(1, 1, 4, WIDTH), drawn(2, 1, 3, WIDTH), [3])
    torch.testing.assert_close(on_source[..., :3], torch.full((1, HEADS, 4, 3), 1 / 3, dtype=torch.float64))
    for row in range(3):
        torch.testing.assert_close(
            on_both[0, 0, row, [0, 1, 2, *range(4, 5 + row)]], torch.full((4 + row,), 1 / (4 + row)).double()
        )


@every
def test_gradients_reach_everything_but_fixed_tables(name):
    attention = attention_of(name)
    x = drawn(0, 2, 5, WIDTH).requires_grad_()
    mask = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    (attention(x, mask, None, Slots(0, 5))[0] * drawn(3, 2, 5, WIDTH)).sum().backward()
    assert all(parameter.grad.any() for parameter in attention.parameters())
    assert x.grad.any()
    fixed = [key for key in attention.state_dict() if key not in dict(attention.named_parameters())]
    assert fixed == (["parts.fixed_random.table"] if "fixed_random" in name.split("+") else [])
