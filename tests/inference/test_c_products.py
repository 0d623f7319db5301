"""Linear maps in C against float64, and bit for bit against oneDNN's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.inference import c_code
from s2s.inference.c_products import CLinear, CQuantisedLinear, gelu
from s2s.inference.packed_model import FEW, PackedLinear, PackedModel, packed, span_of_onednn
from s2s.inference.precisions import QuantisedLinear, quantised
from s2s.machine import c_library
from s2s.machine.paths import computing

pytestmark = pytest.mark.skipif(
    c_code.build().functions is None, reason=f"nothing is compiled: {c_code.build().reason}"
)
with_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def drawn(seed, rows, inputs, outputs):
    generator = torch.Generator().manual_seed(seed)
    shapes = (rows, inputs), (outputs, inputs), (outputs,)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def in_int8(way, weight, bias):
    with computing({"int8": way}):
        return quantised(weight, bias)


SIZES = {"rows": st.integers(1, 11), "outputs": st.integers(1, 150), "seed": st.integers(0, 99)}


@given(inputs=st.integers(1, 70), span=st.integers(1, 80), **SIZES)
@settings(deadline=None, max_examples=60)
def test_floats_are_the_product_s(rows, inputs, span, outputs, seed):
    x, weight, bias = drawn(seed, rows, inputs, outputs)
    wanted = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(CLinear(weight, bias, span)(x).double(), wanted, rtol=1e-5, atol=1e-5)


@given(quarter=st.integers(1, 20), **SIZES)
@settings(deadline=None, max_examples=60)
def test_integers_are_summed_exactly(quarter, rows, outputs, seed):
    x, weight, bias = drawn(seed, rows, 4 * quarter, outputs)
    linear = in_int8("c", weight, bias)
    assert isinstance(linear, CQuantisedLinear)
    row_scales, scales = x.abs().amax(1, keepdim=True) / 63, weight.abs().amax(1, keepdim=True) / 127
    sums = (x / row_scales).round().long() @ (weight / scales).round().long().T
    wanted = bias.double() + sums.double() * scales.T.double() * row_scales.double()
    torch.testing.assert_close(linear(x).double(), wanted, rtol=1e-6, atol=1e-6)


def test_a_row_of_zeros_gives_the_bias():
    _, weight, bias = drawn(0, 1, 8, 5)
    for linear in (CLinear(weight, bias), in_int8("c", weight, bias)):
        assert torch.equal(linear(torch.zeros(3, 8)), bias.expand(3, -1))


@pytest.mark.parametrize("way", ["c", pytest.param("onednn", marks=with_onednn)])
@pytest.mark.parametrize("broken", [slice(0, 1), slice(17, 18), slice(30, 32), slice(None)])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_stays_so_alone(way, broken, value):
    x, weight, bias = drawn(0, 3, 32, 20)
    linear = in_int8(way, weight, bias)
    wanted = linear(x)
    x[1, broken] = value
    found = linear(x)
    assert not found[1].isfinite().any()
    assert not math.isnan(value) or found[1].isnan().all()
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])


def test_the_greatest_integers_do_not_overflow():
    weight, bias = torch.ones(20, 4096), torch.zeros(20)
    linear = in_int8("c", weight, bias)
    torch.testing.assert_close(linear(torch.ones(2, 4096)), torch.full((2, 20), 4096.0))
    torch.testing.assert_close(linear(-torch.ones(2, 4096)), torch.full((2, 20), -4096.0))


@with_onednn
@pytest.mark.parametrize("inputs", [4, 64, 256, 1024, 3072])
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 128])
def test_bits_are_those_of_onednn(rows, inputs):
    x, weight, bias = drawn(rows, rows, inputs, 200)
    by_onednn = in_int8("onednn", weight, bias)
    assert isinstance(by_onednn, QuantisedLinear)
    assert torch.equal(in_int8("c", weight, bias)(x), by_onednn(x))
    span = span_of_onednn(inputs)
    if span is None:
        assert "AVX" not in torch.backends.cpu.get_cpu_capability(), "found on every x86 processor so far"
    elif rows > 1 or inputs < 2048:  # of one long row oneDNN's own bits differ from those of several
        assert torch.equal(CLinear(weight, bias, span)(x), packed(weight, bias)(x))


def test_rows_do_not_depend_on_others_nor_on_threads():
    x, weight, bias = drawn(1, 9, 512, 400)
    for linear in (CLinear(weight, bias), in_int8("c", weight, bias)):
        whole = linear(x)
        assert all(torch.equal(linear(x[row : row + 1])[0], whole[row]) for row in range(9))
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert torch.equal(linear(x), whole)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
def test_what_is_built_for_older_processors_has_the_same_integers(target, monkeypatch):
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("no x86 processor with AVX2")
    x, weight, bias = drawn(2, 6, 64, 70)
    wanted, near = in_int8("c", weight, bias)(x), CLinear(weight, bias)(x)
    c_code.build.cache_clear()
    monkeypatch.setenv(c_library.TARGET, target)
    try:
        torch.testing.assert_close(in_int8("c", weight, bias)(x), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(CLinear(weight, bias)(x), near, rtol=1e-5, atol=1e-5)
    finally:
        c_code.build.cache_clear()


def test_gelu_is_torch_s():
    x = torch.cat([torch.linspace(-30, 30, 200_003), torch.tensor([0.0, 1e-30, -1e-30, 1e30, -1e30])])
    wanted = torch.nn.functional.gelu(x.double())
    torch.testing.assert_close(gelu(x.clone()).double(), wanted, rtol=4e-7, atol=4e-7)
    pieces = [gelu(x[at : at + 1].clone()) for at in range(0, 2000, 7)]
    assert torch.equal(torch.cat(pieces), gelu(x.clone())[:2000:7])


@with_onednn
def test_a_packed_map_takes_c_for_few_rows_alone():
    x, weight, bias = drawn(3, FEW + 1, 64, 70)
    with computing({"few": "c"}):
        linear = packed(weight, bias)
    assert isinstance(linear, PackedLinear)
    few, rows = linear.few, []

    class Counted:
        def __call__(self, x):
            rows.append(len(x))
            return few(x)

    counted = PackedLinear(linear.weight, linear.bias, few=Counted())
    assert torch.equal(counted(x)[:FEW], counted(x[:FEW]))
    assert rows == [FEW]
    with computing({"few": "onednn"}):
        plain = packed(weight, bias)
    assert isinstance(plain, PackedLinear)
    assert plain.few is None


@with_onednn
def test_a_step_of_few_rows_has_the_bits_of_many(random_model):
    model = random_model(0, torch.float32, width=32, heads=2, feed_forward=64)
    with computing({"few": "c"}), torch.inference_mode():
        laid_out = PackedModel(model)
        rows = torch.arange(2 * FEW)
        tokens, positions = 3 + rows % 13, rows % 17
        attend = lambda _, projected: projected[:, :32].contiguous()  # noqa: E731
        many = laid_out.log_probs(laid_out.step(tokens, positions, attend))
        few = laid_out.log_probs(laid_out.step(tokens[:3], positions[:3], attend))
    assert torch.equal(many[:3], few)
