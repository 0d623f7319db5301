"""A model laid out for decoding: the model's own results, and rows that do not depend on their batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from s2s.batch import pad
from s2s.inference.packed_model import PackedLinear, PackedModel, packed

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


def drawn_map(rows, inputs, outputs, seed):
    """Rows, a matrix and a bias."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*size, generator=generator) for size in ((rows, inputs), (outputs, inputs), (outputs,))]


@given(rows=st.integers(1, 9), inputs=st.integers(1, 70), outputs=st.integers(1, 70), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_packed_map_is_the_product_and_the_bias(rows, inputs, outputs, seed):
    x, weight, bias = drawn_map(rows, inputs, outputs, seed)
    exact = functional.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(packed(weight, bias)(x).double(), exact, rtol=1e-5, atol=1e-5)


def test_a_map_in_float64_is_exact():
    x, weight, bias = (torch.randn(*size, dtype=torch.float64) for size in ((3, 5), (7, 5), (7,)))
    torch.testing.assert_close(packed(weight, bias)(x), functional.linear(x, weight, bias), rtol=1e-14, atol=1e-14)


@needs_onednn
@given(rows=st.integers(2, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_a_row_has_the_same_bits_alone_and_among_others(rows, seed):
    x, weight, bias = drawn_map(rows, 64, 96, seed)
    mapped = packed(weight, bias)
    assert isinstance(mapped, PackedLinear)
    alone = torch.cat([mapped(row[None]) for row in x])
    torch.testing.assert_close(mapped(x), alone, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_source_is_encoded_as_by_the_model(random_model, dtype, norm):
    model = random_model(0, dtype, norm=norm)
    lengths = torch.tensor([5, 2, 7])
    source = pad([list(range(1, length + 1)) for length in lengths], 0)
    found, expected = PackedModel(model).encode(source, lengths), model.encode(source, lengths)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    visible = torch.arange(7) < lengths[:, None]
    for own, other in zip(found.layers, expected.layers, strict=True):
        for part, reference in zip(own, other, strict=True):
            kept = (each.transpose(1, 2)[visible] for each in (part, reference))
            torch.testing.assert_close(*kept, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.mask, expected.mask)


@pytest.mark.parametrize("attention", ["dot", "random", "dot+random", "dot,random", "dense,dot"])
def test_only_layers_of_dot_products_are_packed(random_model, attention):
    model = random_model(0, layers=2, attention=attention, source_slots=9, target_slots=9)
    assert len(PackedModel(model).blocks) == (2 if attention == "dot" else 0)
