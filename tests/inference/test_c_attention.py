"""A step's attention in C and by torch, against loops in float64."""

import math
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_scorer import END, UncachedScorer, assert_same, sources_of

from s2s.batch import pad
from s2s.inference import c_attention, c_code, kv_cache
from s2s.inference.model_scorer import PrefixScorer
from s2s.machine import c_library
from s2s.machine.paths import computing
from s2s.search import beam_search

in_c = pytest.mark.skipif(c_code.build().functions is None, reason=f"nothing is compiled: {c_code.build().reason}")


def attend_in_c(projected, cache, mask, used):
    return c_attention.StepAttention(cache[None], mask, used)(0, projected)


def attend_by_torch(projected, cache, mask, used):
    return c_attention.attention_by_torch(cache[None], mask, used)(0, projected)


WAYS = [pytest.param(attend_in_c, marks=in_c, id="C"), pytest.param(attend_by_torch, id="torch")]
LANES = {"x86-64-v2": 4, "x86-64-v3": 8, "x86-64-v4": 16}
"""Targets of the compiler, and the floats in their registers."""
on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="no x86 processor")


@pytest.fixture
def no_library_kept():
    """Both before and after, nothing is known of what was compiled."""
    c_code.build.cache_clear()
    yield
    c_code.build.cache_clear()


def drawn(seed, sources, rows, heads, size, used, room):
    """Queries, keys and values of new rows, a cache, and a mask with which each row sees itself and some others."""
    generator = torch.Generator().manual_seed(seed)
    projected = torch.randn(sources * rows, 3 * heads * size, generator=generator)
    cache = torch.randn(sources, heads, 2, used + room, size, generator=generator)
    hidden = torch.rand(sources, rows, used + rows, generator=generator) < 0.4
    hidden[:, torch.arange(rows), used + torch.arange(rows)] = False
    return projected, cache, torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)


def by_loops(projected, cache, mask, used):
    """Softmax of scaled products, a source, row and head at a time."""
    (sources, rows, columns), (_, heads, _, _, size) = mask.shape, cache.shape
    parts, memory = projected.double().view(sources, rows, 3, heads, size), cache.double().clone()
    memory[:, :, :, used : used + rows] = parts[:, :, 1:].permute(0, 3, 2, 1, 4)
    found = torch.empty(sources, rows, heads, size, dtype=torch.float64)
    for source in range(sources):
        for row in range(rows):
            for head in range(heads):
                keys, values = memory[source, head, :, :columns]
                scores = keys @ parts[source, row, 0, head] / math.sqrt(size) + mask[source, row]
                found[source, row, head] = scores.softmax(dim=0) @ values
    return found.flatten(2).flatten(0, 1), memory


@pytest.mark.parametrize("attend", WAYS)
@given(
    seed=st.integers(0, 99),
    sources=st.integers(1, 4),
    rows=st.integers(1, 9),
    heads=st.integers(1, 3),
    size=st.sampled_from([16, 32, 48, 64]),
    used=st.integers(0, 80),
    free=st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_new_rows_see_what_their_mask_says(attend, seed, sources, rows, heads, size, used, free):
    projected, cache, mask = drawn(seed, sources, rows, heads, size, used, rows + free)
    wanted, memory = by_loops(projected, cache, mask, used)
    found = attend(projected, cache, mask, used)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(cache.double(), memory, rtol=0, atol=0)


@pytest.mark.parametrize("attend", WAYS)
@given(seed=st.integers(0, 99), rows=st.integers(1, 9), size=st.sampled_from([16, 48, 64]), used=st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_a_cache_in_bfloat16_holds_the_nearest_numbers(attend, seed, rows, size, used):
    projected, cache, mask = drawn(seed, 2, rows, 2, size, used, rows)
    kept, width = cache.bfloat16(), 2 * size
    rounded = torch.cat([projected[:, :width], projected[:, width:].bfloat16().float()], dim=1)
    wanted, memory = by_loops(rounded, kept.float(), mask, used)
    found = attend(projected, kept, mask, used)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(kept.double(), memory, rtol=0, atol=0)


@in_c
def test_bfloat16_of_extreme_numbers_is_torch_s():
    even, odd = 1 + 2**-8, 1 + 3 * 2**-8  # both lie between two numbers
    numbers = [0.0, -0.0, 1e-45, -1e-40, 3.3895e38, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan, even, odd]
    projected = torch.tensor(numbers + [1.0] * 4).repeat(3)[None]
    cache = torch.zeros(1, 1, 2, 1, 16, dtype=torch.bfloat16)
    attend_in_c(projected, cache, torch.zeros(1, 1, 1), 0)
    torch.testing.assert_close(cache[0, 0, 0, 0], projected[0, :16].bfloat16(), rtol=0, atol=0, equal_nan=True)


@in_c
@pytest.mark.parametrize("scale", [1e-4, 30.0, 1000.0])
def test_scores_of_any_size_are_weighed(scale):
    projected, cache, mask = drawn(0, 2, 4, 2, 32, 40, 4)
    projected[:, :64] *= scale
    wanted, _ = by_loops(projected, cache, mask, 40)
    torch.testing.assert_close(attend_in_c(projected, cache, mask, 40).double(), wanted, rtol=1e-4, atol=1e-4)


@in_c
def test_a_source_has_the_same_bits_alone_and_on_several_threads(monkeypatch):
    projected, cache, mask = drawn(0, 6, 4, 2, 32, 40, 4)
    found = attend_in_c(projected, cache, mask, 40)
    alone = [attend_in_c(projected[4 * at :][:4], cache[at : at + 1], mask[at : at + 1], 40) for at in range(6)]
    assert torch.equal(torch.cat(alone), found)
    monkeypatch.setattr(c_attention, "PART", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(attend_in_c(projected, cache, mask, 40), found)
    finally:
        torch.set_num_threads(threads)


@in_c
def test_bfloat16_is_rounded_once():
    projected, cache, mask = drawn(0, 2, 4, 2, 32, 40, 4)
    found = attend_in_c(projected.bfloat16(), cache.clone(), mask.bfloat16(), 40)
    exact = attend_in_c(projected.bfloat16().float(), cache, mask, 40)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


@in_c
def test_what_is_not_for_c_is_left_to_torch():
    cpu = torch.device("cpu")
    assert c_attention.usable(cpu, torch.float32, 64)
    assert c_attention.usable(cpu, torch.bfloat16, 16)
    assert not c_attention.usable(cpu, torch.float32, 8)
    assert not c_attention.usable(cpu, torch.float64, 64)
    assert not c_attention.usable(torch.device("meta"), torch.float32, 64)


@pytest.mark.parametrize("in_torch", [False, True])
@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5), beams=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=12)
def test_a_search_is_that_of_the_whole_forward(random_model, in_torch, lengths, beams, seed):
    model, sources = random_model(seed, torch.float32, width=32, heads=2), sources_of(lengths, seed)
    longest = [9 - place for place in range(len(sources))]
    with pytest.MonkeyPatch.context() as patch, computing({"attention": "torch" if in_torch else "c"}):
        patch.setattr(kv_cache, "ROOM", 4 if seed % 2 else 128)  # columns are moved
        for name in ("WIDE", "WIDE_IN_C"):
            patch.setattr(kv_cache, name, 2 if seed % 3 == 0 else 16)  # rows part
        scorer = PrefixScorer(model, pad(sources, 0), torch.tensor([*map(len, sources)]), END, END)
        assert scorer.start().buffer.in_c == (not in_torch and c_code.build().functions is not None)
        found = beam_search(scorer, beams, longest, beams)
    wanted = [
        beam_search(UncachedScorer(model, source), beams, length, beams)[0]
        for source, length in zip(sources, longest, strict=True)
    ]
    assert_same(found, wanted, tie=1e-5)


@pytest.mark.slow
@in_c
@on_x86
@pytest.mark.parametrize("target", LANES)
def test_a_target_of_the_compiler_has_lanes_as_wide_as_its_registers(target):
    """Preprocessed alone, so that a processor without such registers can tell."""
    source = Path(c_attention.__file__).with_name("attention.c")
    command = [c_code.build().reason.removeprefix("compiled by "), f"-march={target}", "-E", "-P", str(source)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    assert f"vector_size(4 * {LANES[target]})" in done.stdout


@in_c
@on_x86
@pytest.mark.usefixtures("no_library_kept")
@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2", "haswell"])
def test_what_is_built_for_older_processors_computes_the_same(target, monkeypatch):
    monkeypatch.setenv(c_library.TARGET, target)
    projected, cache, mask = drawn(0, 3, 5, 2, 48, 40, 7)
    wanted, _ = by_loops(projected, cache, mask, 40)
    torch.testing.assert_close(attend_in_c(projected, cache, mask, 40).double(), wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.usefixtures("no_library_kept")
def test_a_target_that_no_compiler_knows_is_said(monkeypatch):
    monkeypatch.setenv(c_library.TARGET, "abacus")
    assert not c_attention.usable(torch.device("cpu"), torch.float32, 64)
    assert "no C compiler was found" in c_code.build().reason or "abacus" in c_code.build().reason


@in_c
def test_the_chosen_way_is_in_use():
    for way, in_use in (("c", True), ("torch", False)):
        with computing({"attention": way}):
            assert c_attention.usable(torch.device("cpu"), torch.float32, 64) == in_use
