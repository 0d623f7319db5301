"""A decoding step in one call of C, bit for bit against its single operations, and its layer norm against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_scorer import END, sources_of

from s2s.batch import pad
from s2s.inference import c_code, c_step
from s2s.inference.c_attention import StepAttention
from s2s.inference.c_step import CNorm, CStep
from s2s.inference.model_scorer import PrefixScorer
from s2s.inference.packed_model import PackedModel, span_of_onednn
from s2s.inference.precisions import in_int8
from s2s.machine.paths import computing
from s2s.search import beam_search

pytestmark = [
    pytest.mark.skipif(c_code.build().functions is None, reason=f"nothing is compiled: {c_code.build().reason}"),
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"),
]
IN_C = {"few": "c", "int8": "c", "attention": "c"}


@given(
    rows=st.integers(1, 5), size=st.integers(1, 300), scale=st.sampled_from([1e-3, 1.0, 1e4]), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=60)
def test_a_norm_is_that_of_float64(rows, size, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    norm = torch.nn.LayerNorm(size, eps=1e-5)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    x = scale * torch.randn(rows, size, generator=generator) + scale
    wanted = norm.double()(x.double()).detach()
    in_c = CNorm(norm.float())
    torch.testing.assert_close(in_c(x).double(), wanted, rtol=1e-5, atol=2e-5)
    assert torch.equal(torch.cat([in_c(row[None]) for row in x]), in_c(x))


def with_threads(number, work):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("layout", [PackedModel, in_int8])
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5), beams=st.integers(1, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=8)
def test_one_call_has_the_bits_of_the_single_operations(random_model, norm, layout, lengths, beams, seed):
    model, sources = random_model(seed, torch.float32, width=32, heads=2, norm=norm), sources_of(lengths, seed)
    calls, found = [], []
    with pytest.MonkeyPatch.context() as patch, computing(IN_C), torch.inference_mode():
        step = CStep.__call__
        patch.setattr(CStep, "__call__", lambda self, x, attend: calls.append(len(x)) or step(self, x, attend))
        laid_out = layout(model)
        assert laid_out.in_c is not None
        for in_c in (laid_out.in_c, None):
            laid_out.in_c = in_c
            counted = len(calls)
            for threads in (1, 3):
                scorer = PrefixScorer(laid_out, pad(sources, 0), torch.tensor([*map(len, sources)]), END, END)
                search = lambda: beam_search(scorer, beams, [9] * len(sources), beams)  # noqa: B023, E731
                found.append(with_threads(threads, search))
            assert (len(calls) > counted) == (in_c is not None)
    for other in found[1:]:
        assert other == found[0]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("whole", [True, False])
def test_torch_s_default_type_changes_nothing(random_model, default, whole):
    """Rooms of another type would be too small for what C writes, or read as other numbers."""

    def step():
        span_of_onednn.cache_clear()
        with computing(IN_C), torch.no_grad():
            packed = PackedModel(model)
            attend = StepAttention(cache.clone(), mask, 300)
            assert packed.in_c is not None
            packed.in_c = packed.in_c if whole else None
            return packed.step(torch.tensor([4, 5, 6]), torch.tensor([7, 7, 7]), attend)

    model = random_model(0, torch.float32, width=32, heads=2)
    cache, mask = torch.ones(2, 1, 2, 2, 400, 16), torch.zeros(1, 3, 303)
    wanted = step()
    torch.set_default_dtype(default)
    try:
        found = step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)


def test_a_part_that_is_not_in_c_leaves_the_step_to_single_operations(random_model):
    with computing(IN_C):
        assert PackedModel(random_model(0, torch.float32, width=32, heads=2)).in_c is not None
        assert PackedModel(random_model(0, torch.float32, width=32, heads=2, activation="relu")).in_c is None
        assert PackedModel(random_model(0, torch.float64, width=32, heads=2)).in_c is None
    with computing({**IN_C, "few": "onednn"}):
        assert PackedModel(random_model(0, torch.float32, width=32, heads=2)).in_c is None


def test_large_steps_are_left_to_several_threads(random_model):
    with computing(IN_C):
        step = PackedModel(random_model(0, torch.float32, width=32, heads=2)).in_c
    attend = c_step.StepAttention(torch.zeros(1, 1, 2, 2, 8, 16), torch.zeros(1, 4, 8), 4)
    most = 2 * c_step.WORTH // step.work
    assert with_threads(1, lambda: step.suits(attend, 10 * most))
    assert with_threads(2, lambda: step.suits(attend, most - 1))
    assert not with_threads(2, lambda: step.suits(attend, most + 1))
    assert not step.suits(print, 1)
