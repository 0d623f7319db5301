"""Laws of heads over sources: their losses together with generation's, split updates, and rows of weight zero."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2s.batch import IGNORED, Batch, add, collate, count, without_weight
from s2s.data import DataSettings, Example
from s2s.data.sources import Source
from s2s.errors import UserError
from s2s.heads import CRF, HEADS, MEMM, zlpr_loss
from s2s.heads.labels import ABSENT, BEGIN, INSIDE, FieldTags, copy_tags
from s2s.heads.run_heads import Heads, make_heads, rows_of
from s2s.metrics.sequences import CommonSubsequences
from s2s.mitigations import MITIGATIONS, PreparedMethod
from s2s.objective import Objective, ObjectiveSettings

few = settings(deadline=None, max_examples=12)
TAGS, LABELS, VOCABULARY = ["B", "I", "O"], ["x", "y", "z", "w"], 23
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def rows(name: str, weight: float = 1.0, **keys: object):
    return HEADS[name](weight=weight, field="label", **keys)


def made(names: dict[str, object], seed: int = 0) -> Heads:
    inventory = {name: TAGS if row.tags_tokens else LABELS for name, row in names.items()}  # type: ignore[attr-defined]
    torch.manual_seed(seed)
    return Heads(make_heads(names, inventory, DataSettings()), 12, VOCABULARY).double()


def labelled(batch: Batch, heads: Heads, seed: int = 0) -> Batch:
    """The batch with random labels; its last row has none."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, count: int) -> list[int]:
        return torch.randint(high, (count,), generator=generator).tolist()

    rows_of_heads = []
    for head in heads.heads:
        sets = []
        for length in batch.source_lengths[:-1].tolist():
            tags = [IGNORED if skip else tag for tag, skip in zip(draw(3, length), draw(2, length), strict=True)]
            sets.append([IGNORED, *tags[1:-1], IGNORED] if head.settings.tags_tokens else sorted(set(draw(4, 2))))
        rows_of_heads.append([*sets, []])
    width = [max(map(len, rows)) for rows in rows_of_heads]
    padded = [[row + [IGNORED] * (w - len(row)) for row in rows] for rows, w in zip(rows_of_heads, width, strict=True)]
    return batch._replace(heads=tuple(torch.tensor(rows) for rows in padded))


def expected_loss(name: str, part: torch.nn.Module, hidden: Tensor, labels: Sequence[int]) -> Tensor:
    """A head's loss of one source, slowly; hidden [S, D] without padding."""
    if name in ("zlpr", "bce"):
        scores = part.output(hidden.mean(dim=0, keepdim=True), None)[0]
        targets = torch.tensor([float(label in labels) for label in range(4)], dtype=scores.dtype)
        if name == "zlpr":
            return zlpr_loss(scores, targets)
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="sum")
    columns = [column for column, label in enumerate(labels) if label != IGNORED]
    if not columns:
        return hidden.new_zeros(())
    emissions, tags = part.output(hidden[columns]), torch.tensor([labels[column] for column in columns])
    if name == "softmax":
        return torch.nn.functional.cross_entropy(emissions, tags, reduction="sum")
    kind = CRF(3) if name == "crf" else MEMM(3, bidirectional=name == "bimemm")
    kind.double().load_state_dict(part.chain.state_dict())
    return kind.nll(emissions[None], tags[None], torch.ones(1, len(columns), dtype=torch.bool))[0]


SIZES = st.lists(st.tuples(st.integers(3, 9), st.integers(0, 4)), min_size=2, max_size=5)


@pytest.mark.parametrize("name", HEADS)
@given(sizes=SIZES, seed=st.integers(0, 99))
@few
def test_a_head_adds_its_weighted_loss_to_the_generation_s(random_model, random_batch, name, sizes, seed) -> None:
    model, heads = random_model(seed), made({"one": rows(name, 0.3)}, seed)
    batch = labelled(random_batch(sizes, seed), heads, seed)
    alone = Objective(model, ObjectiveSettings())(batch)
    both = Objective(model, ObjectiveSettings(), (), heads)(batch)
    labels, [part] = batch.heads[0], heads.parts
    wanted = torch.zeros((), dtype=torch.float64)
    for row, (length, _) in enumerate(sizes[:-1]):
        hidden = model.source_hidden(batch.source[row : row + 1, :length], torch.tensor([length]))[0]
        wanted = wanted + expected_loss(name, part, hidden, labels[row, :length].tolist())
    units = count(batch)
    wanted = wanted / (units.examples if name in ("zlpr", "bce") else units.source_tokens)
    torch.testing.assert_close(both.parts["one.loss"].double(), wanted.detach(), **CLOSE)
    torch.testing.assert_close(both.total, alone.total + 0.3 * wanted, check_dtype=False, **CLOSE)
    assert {"cross_entropy", "nll"} <= both.parts.keys()


def gradients(module: Objective, losses: Sequence[Tensor]) -> list[Tensor]:
    module.zero_grad()
    sum(losses).backward()
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("generates", [True, False])
def test_the_losses_of_any_split_add_up(random_model, random_batch, generates) -> None:
    heads = made({name: rows(name) for name in HEADS})
    module = Objective(random_model(), ObjectiveSettings(), (), heads, generates)
    batch = labelled(random_batch([(5, 3), (8, 0), (3, 2), (6, 1)]), heads)
    if not generates:
        batch = batch._replace(target=batch.target[:, :0], labels=batch.labels[:, :0])
        assert count(batch) == (0, 16, 3)  # the last row has no label
    whole = gradients(module, [module(batch).total])
    parts = [batch.map(lambda part, index=index: part[index]) for index in ([0, 3], [2], [1])]
    idle = without_weight(parts[0])
    counts = add([count(part) for part in [*parts, idle]])
    assert counts == count(batch)
    split = gradients(module, [module(part, 0, counts).total for part in [*parts, idle]])
    for summed, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(summed, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("generates", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_what_weighs_nothing_reaches_every_parameter_with_zero(random_model, random_batch, name, generates) -> None:
    heads = made({"one": rows(name)})
    module = Objective(random_model(), ObjectiveSettings(), (), heads, generates)
    losses = module(without_weight(labelled(random_batch([(5, 3), (3, 4)]), heads)))
    losses.total.backward()
    assert losses.total == 0
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert not parameter.grad.any(), key
    frozen = {key for key, parameter in module.named_parameters() if not parameter.requires_grad}
    assert frozen == (set() if generates else {"model.output_bias"})


METHODS = ["word_dropout", "fgm", "vat", "free_lb", "gradient_penalty", "r_drop", "teaforn", "unlikelihood"]


@pytest.mark.parametrize("name", METHODS)
def test_heads_compose_with_methods(random_model, random_batch, name) -> None:
    model, method = random_model(), MITIGATIONS[name]()
    heads = made({"tags": rows("crf", 0.5), "set": rows("zlpr", 0.25)})
    batch = labelled(random_batch([(5, 3), (6, 2), (4, 4)]), heads)
    alone = Objective(model, ObjectiveSettings(), [PreparedMethod(name, method)])(batch)
    both = Objective(model, ObjectiveSettings(), [PreparedMethod(name, method)], heads)(batch)
    extra = 0.5 * both.parts["tags.loss"] + 0.25 * both.parts["set.loss"]
    torch.testing.assert_close(both.total.detach(), alone.total.detach() + extra, check_dtype=False, **CLOSE)


def test_rows_with_unknown_tags_have_no_loss_but_are_predicted(random_model, random_batch) -> None:
    heads, batch = made({"one": rows("crf")}), random_batch([(4, 1), (5, 1)])
    labels = torch.full((2, 5), IGNORED)
    labels[0, 1], labels[1, 1:4] = 2, torch.tensor([0, ABSENT, 1])
    module = Objective(random_model(), ObjectiveSettings(), (), heads, False)
    known = labels.clone()
    known[1] = IGNORED
    assert module(batch._replace(heads=(labels,)))[0] * 9 == module(batch._replace(heads=(known,)))[0] * 9
    outputs = heads.outputs(rows_of(module.model, batch), batch._replace(heads=(labels,)))
    assert [len(output.labels) for output in outputs[0]] == [1, 3]
    assert {tag for output in outputs[0] for tag in output.labels} <= set(TAGS)


def slow_length(first: Sequence[int], second: Sequence[int]) -> int:
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + slow_length(first[:-1], second[:-1])
    return max(slow_length(first[:-1], second), slow_length(first, second[:-1]))


@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=6))
@few
def test_copies_are_a_longest_common_subsequence(first: list[int], second: list[int]) -> None:
    pairs = CommonSubsequences(first, second).pairs()
    assert len(pairs) == slow_length(first, second)
    assert all(first[i] == second[j] for i, j in pairs)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(pairs))
    tags = copy_tags(first, second)
    assert [i for i, tag in enumerate(tags) if tag] == [i for i, _ in pairs]
    for index, pair in enumerate(pairs):
        goes_on = index > 0 and pairs[index - 1] == (pair[0] - 1, pair[1] - 1)
        assert tags[pair[0]] == (INSIDE if goes_on else BEGIN)


def test_the_first_piece_of_a_token_carries_its_tag() -> None:
    source = FieldTags("tags", "label", TAGS, lambda example: example.tokens)
    example = Example("a b c", "", ("a", "b", "c"), (("label", ("O", "B", "new")),))
    row = source(example, Source([2, 5, 6, 7, 8, 3], [1, 3, 4]), [])
    assert row == [IGNORED, 2, IGNORED, 0, ABSENT, IGNORED]
    assert source(example, Source([2, 5, 3], [1]), []) == [IGNORED, 2, IGNORED]
    with pytest.raises(UserError, match=r"^heads\.tags\.field: 3 tags in 'label' for 2 tokens of the source 'a b c'"):
        source(example._replace(tokens=("a", "b c")), Source([2, 5, 6, 3], [1, 2]), [])
    assert source.blank(Source([2, 5, 6, 3], [1])) == [IGNORED, ABSENT, IGNORED, IGNORED]


def test_collated_rows_of_heads_have_their_own_width() -> None:
    batch = collate([([2, 7, 3], None)], 0, 3, heads=[[[0]], [[1, 2]]])
    assert [labels.shape for labels in batch.heads] == [(1, 1), (1, 2)]
