"""Decoding in bfloat16 and int8: near the exact scores, and for int8 the same in every batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_scorer import END, sources_of
from test_packed_model import drawn_map

from s2s.errors import UserError
from s2s.inference.generate import ModelEnsemble, generate
from s2s.inference.precisions import PRECISIONS, quantised
from s2s.machine.precision import DECODING
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import sentence_pieces

needs_int8 = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


def test_each_name_that_a_recipe_may_give_has_a_function():
    assert tuple(PRECISIONS) == DECODING


@needs_int8
@given(rows=st.integers(1, 5), inputs=st.integers(1, 40), outputs=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_int8_is_a_product_of_rounded_numbers(rows, inputs, outputs, seed):
    x, weight, bias = drawn_map(rows, inputs, outputs, seed)
    x[0] *= 100 * (seed % 3)  # a row of zeros, or one that is far greater than the others
    found = quantised(weight, bias)(x)
    steps, scales = x.abs().amax(1, keepdim=True) / 63, weight.abs().amax(1, keepdim=True) / 127
    whole = (x / steps).nan_to_num().round() @ (weight / scales).round().T
    torch.testing.assert_close(found, whole * steps * scales.T + bias, rtol=1e-4, atol=1e-4)
    alone = torch.cat([quantised(weight, bias)(row[None]) for row in x])
    torch.testing.assert_close(found, alone, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=needs_int8)])
@pytest.mark.parametrize("attention", ["dot", "dot,dense"])
def test_scores_stay_near(random_model, precision, attention):
    slots = {"source_slots": 30, "target_slots": 10} if attention != "dot" else {}
    vocabulary = sentence_pieces.train(["a sentence to learn a few pieces from"], 300)
    model = random_model(0, torch.float32, vocabulary=vocabulary.size, attention=attention, **slots)
    sources = sources_of([9, 2, 20], 0, vocabulary.size)
    found = {}
    for name in ("fp32", precision):
        rules = SearchSettings(beams=3, min_length=5, precision=name)
        found[name] = generate(model, vocabulary, sources, rules, 5, lambda _: None)
        prepared = ModelEnsemble(vocabulary, [model], None, name).scorer(sources)
        found[name] = prepared.step(torch.full((3,), END), prepared.start())[0], found[name]
    log_probs = found["fp32"][0]
    difference = (found[precision][0] - log_probs).square().mean().sqrt()
    assert 0 < difference < 0.1 * log_probs.std()  # type: ignore[attr-defined]
    assert [len(rows[0][0]) for rows in found[precision][1]] == [5, 5, 5]


def test_what_int8_cannot_do_is_refused(random_model):
    with pytest.raises(UserError, match=r"search\.precision: no 'int4'; did you mean 'int8'\?"):
        SearchSettings(precision="int4")
    with pytest.raises(UserError, match="int8 is for float32 models on CPU"):
        PRECISIONS["int8"](random_model())
