"""Beam search over a decoder of ``transformers`` as a scorer, against the library's own ``generate``."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from library_search import assert_same, before_end
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from s2s.batch import pad
from s2s.search import beam_search

PADDING, END, BREAK = 0, 1, 2
PROMPTS = st.lists(st.lists(st.integers(3, 4), max_size=5), min_size=1, max_size=3)
few = settings(deadline=None, max_examples=8)


class State(NamedTuple):
    cache: DynamicCache
    mask: Tensor


class DecoderScorer:
    """A causal model of ``transformers``; a source is a prompt whose last token is ``BREAK``, which is fed first."""

    begin, end = BREAK, END

    def __init__(self, model: GPT2LMHeadModel, prompts: list[list[int]]) -> None:
        self.model, self.sources = model, len(prompts)
        self.ids = pad([row[-2::-1] for row in prompts], PADDING).flip(1)  # the break left out, padded on the left
        self.mask = pad([[1] * (len(row) - 1) for row in prompts], 0).flip(1)

    def start(self) -> State:
        state = State(DynamicCache(config=self.model.config), self.mask)
        if self.ids.shape[1]:
            self._run(self.ids, state)
        return state

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        state = state._replace(
            mask=torch.cat(
                [state.mask, torch.ones_like(state.mask[:, :1] if state.mask.numel() else tokens[:, None])], dim=1
            )
        )
        return self._run(tokens[:, None], state)[:, -1].log_softmax(dim=-1), state

    def reorder(self, state: State, index: Tensor) -> State:
        state.cache.batch_select_indices(index)
        return state._replace(mask=state.mask[index])

    def _run(self, ids: Tensor, state: State) -> Tensor:
        places = (state.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"attention_mask": state.mask, "position_ids": places, "past_key_values": state.cache}
        return self.model(input_ids=ids, **given).logits


@pytest.fixture(scope="module")
def decoder():
    def make(seed: int, vocabulary: int) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=vocabulary,
            n_embd=8,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=BREAK,
            eos_token_id=END,
            pad_token_id=PADDING,
        )
        model = GPT2LMHeadModel(config).eval().double()
        for parameter in model.parameters():
            parameter.data.normal_(0.0, 0.7)
        return model

    return make


def theirs(model, prompts, beams, longest, n_best, **rules):
    """The library's hypotheses, [prompt][n best] of (tokens without the end, score)."""
    ids = pad([row[::-1] for row in prompts], PADDING).flip(1)
    mask = pad([[1] * len(row) for row in prompts], 0).flip(1)
    out = model.generate(
        ids,
        attention_mask=mask,
        num_beams=beams,
        max_new_tokens=longest,
        num_return_sequences=n_best,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **rules,
    )
    rows = []
    for row, score in zip(out.sequences[:, ids.shape[1] :].tolist(), out.sequences_scores.tolist(), strict=True):
        rows.append((before_end(row, END), score))
    return [rows[start : start + n_best] for start in range(0, len(rows), n_best)]


@given(prompts=PROMPTS, beams=st.integers(2, 5), seed=st.integers(0, 99), penalty=st.sampled_from([0.0, 1.0, -0.5]))
@few
@torch.no_grad()
def test_hypotheses_of_one_forced_length_agree(decoder, prompts, beams, seed, penalty):
    model, prompts = decoder(seed, 11), [[*row, BREAK] for row in prompts]
    rules = {"length_penalty": penalty, "min_new_tokens": 6, "early_stopping": False}
    wanted = theirs(model, prompts, beams, 6, beams, **rules)
    assert_same(beam_search(DecoderScorer(model, prompts), beams, 6, beams, penalty, 6), wanted)


@pytest.mark.parametrize("early", [False, "never"])
@given(prompts=PROMPTS, seed=st.integers(0, 99), penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]))
@few
@torch.no_grad()
def test_beams_as_wide_as_the_space_agree_with_ends_anywhere(decoder, early, prompts, seed, penalty):
    # Beside the end there are 4 tokens: 64 hypotheses of full length, 21 shorter ones.
    model, prompts = decoder(seed, 5), [[*row, BREAK] for row in prompts]
    wanted = theirs(model, prompts, 100, 3, 4, length_penalty=penalty, early_stopping=early)
    assert_same(beam_search(DecoderScorer(model, prompts), 100, 3, 4, penalty), wanted)


@given(prompts=PROMPTS, seed=st.integers(0, 99))
@few
@torch.no_grad()
def test_one_beam_is_the_library_s_greedy_search(decoder, prompts, seed):
    model, prompts = decoder(seed, 7), [[*row, BREAK] for row in prompts]
    found = beam_search(DecoderScorer(model, prompts), 1, 8)
    for [(tokens, _)], prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([prompt])
        row = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0]
        new = row[len(prompt) :].tolist()
        assert tokens == before_end(new, END)
