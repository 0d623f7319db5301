"""Tables filled up with rows of zeros, as on a GPU, against the plain product."""

from typing import Any

import pytest
import torch
from fake_devices import found_by, needs_fake_cuda
from filled_tables_worker import SIZES, rows
from torch import Tensor
from torch.nn import functional

from s2s.inference.packed_model import PackedModel
from s2s.model import output_rows
from s2s.model.architecture import Architecture
from s2s.model.output_rows import MULTIPLE, OutputRows, filled, scores
from s2s.model.transformer import PrefixTransformer

PIECES = [1, 63, 64, 65, 281, 320]


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the tables of a processor too."""
    monkeypatch.setattr(output_rows, "DEVICE", "cpu")
    monkeypatch.setattr(output_rows, "MANY", 1)


def parts(pieces: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(pieces)
    shapes = [(3, 7, 5), (pieces, 5), (pieces,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.usefixtures("on_processor")
@pytest.mark.parametrize("pieces", PIECES)
def test_a_filled_table_is_the_table_and_zeros(pieces: int) -> None:
    for part in parts(pieces)[1:]:
        wide = filled(part)
        assert len(wide) % MULTIPLE == 0
        assert len(wide) - pieces < MULTIPLE
        assert torch.equal(wide[:pieces], part)
        assert not wide[pieces:].any()
        assert (wide is part) == (pieces % MULTIPLE == 0)


def test_a_processor_and_few_rows_take_the_table_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(281, 5)
    assert filled(table) is table
    monkeypatch.setattr(output_rows, "DEVICE", "cpu")
    assert filled(table, output_rows.MANY - 1) is table
    assert len(filled(table, output_rows.MANY)) == 320
    cast = OutputRows(torch.randn(3, 5), table, table[:, 0]).cast()
    assert (cast.weight is table, cast.pieces) == (True, 281)


@pytest.mark.usefixtures("on_processor")
@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_and_their_derivatives_are_those_of_the_plain_product(pieces: int, dtype: torch.dtype) -> None:
    given = parts(pieces, dtype)
    found, expected = scores(*given), functional.linear(*given)
    assert (found.shape, found.dtype) == ((3, 7, pieces), dtype)
    assert found.is_contiguous() or dtype == torch.bfloat16
    limits = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(found, expected, **limits)
    slopes = [
        torch.autograd.grad(side.float().logsumexp(-1).sin().sum(), given, create_graph=dtype == torch.float64)
        for side in (found, expected)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=limits["rtol"] * 1e4, atol=max(1e-6, limits["atol"]))
    if dtype == torch.float64:
        twice = [torch.autograd.grad(sum(part.square().sum() for part in side), given) for side in slopes]
        for ours, theirs in zip(*twice, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("on_processor")
@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("half", [False, True])
def test_rows_that_are_cast_have_the_scores_of_the_plain_product(pieces: int, half: bool) -> None:
    hidden, weight, bias = (part.detach().float() for part in parts(pieces))
    hidden = hidden.flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        cast, expected = OutputRows(hidden, weight, bias).cast(), functional.linear(hidden, weight, bias).float()
    limits = {"rtol": 0.05, "atol": 0.05} if half else {"rtol": 1e-5, "atol": 1e-5}
    found, wide = cast.scores(slice(2, 9)), cast.wide_scores(slice(2, 9))
    torch.testing.assert_close(found, expected[2:9], **limits)
    assert found.is_contiguous()
    assert torch.equal(found, wide[:, :pieces])
    assert not wide[:, pieces:].any()
    for gradient in (found, wide):
        assert torch.equal(cast.wide(gradient), wide.to(weight.dtype if not half else torch.bfloat16))


@pytest.mark.usefixtures("on_processor")
def test_a_model_keeps_its_shapes() -> None:
    torch.manual_seed(0)
    shape = Architecture(vocabulary=281, layers=1, width=8, heads=2, feed_forward=16, positions=20)
    model = PrefixTransformer(shape)
    hidden = torch.randn(4, 8)
    assert model.logits(hidden).shape == (4, 281)
    assert PackedModel(model).log_probs(hidden).shape == (4, 281)
    assert {name: tensor.shape[0] for name, tensor in model.state_dict().items() if 281 in tensor.shape} == {
        "embedding.tokens.weight": 281,
        "output_bias": 281,
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    read: dict[str, Any] = found_by("filled_tables_worker.py", "filled.json", tmp_path_factory.mktemp("filled"))
    return read


@pytest.mark.slow
@needs_fake_cuda
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", rows())
def test_a_gpu_multiplies_by_filled_tables_and_finds_the_same(name: str, size: int, found: dict[str, Any]) -> None:
    row = found[f"{name} {size}"]
    assert set(row["widths"]) == {320}, "the sizes of products that are the table's, or near it"
    assert row["apart"] <= 1e-6, row
