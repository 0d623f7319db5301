"""On a processor with a C compiler, what is found for a source does not depend on its batch, to the bit."""

from dataclasses import replace

import pytest
import torch
from diagnosed import TinyVocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from test_c_attention import in_c
from test_model_scorer import sources_of

from s2s.inference.generate import ModelEnsemble, answer
from s2s.search.methods import SEARCHES

pytestmark = pytest.mark.slow

LONGEST = 9
ROWS: dict[str, dict[str, object]] = {
    "beam": {"beams": 4, "n_best": 3, "length_penalty": 0.7, "no_repeat_ngram": 2, "min_length": 2},
    "diverse": {"groups": 2, "beams": 2, "n_best": 3},
    "shrinking": {"beams": 3},
    "sample": {"samples": 20, "top_k": 4, "top_p": 0.9, "typical": 0.95},
    "mbr": {"samples": 18, "top_p": 0.8, "n_best": 2},
    "mbr_beam": {"beams": 4, "n_best": 2},
}
"""With cut-offs that fall anywhere among near-equal tokens."""


@in_c
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=7),
    batch=st.integers(2, 7),
    seed=st.integers(0, 99),
    shuffled=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=5)
def test_batches_and_order_change_no_bit(random_model, name, precision, lengths, batch, seed, shuffled):
    model = random_model(seed, torch.float32, width=32, heads=2, positions=60)
    models = ModelEnsemble(TinyVocabulary(), [model], precision=precision)
    sources = sources_of(lengths, seed)
    keys = SEARCHES[name](precision=precision, token_scores=True, **ROWS[name])

    def found(order, together):
        answers = answer(models, [sources[at] for at in order], replace(keys, batch=together), LONGEST, lambda _: None)
        return [answers[order.index(at)] for at in range(len(sources))]

    alone = found(range(len(sources)), 1)
    assert found(shuffled.sample(range(len(sources)), len(sources)), batch) == alone
