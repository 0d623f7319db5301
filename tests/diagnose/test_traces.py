"""Traces and greedy texts against one pass a token, and the draws of sampled texts."""

import math

import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate
from s2s.diagnose.traces import GreedyText, sample_texts, trace, trace_greedy, write_greedily


def next_log_probs(model, source, prefix):
    batch = collate([(source, prefix)], 0, 3)
    with torch.no_grad():
        hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        return model.logits(hidden)[0, -1].log_softmax(dim=-1)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=4)
def test_a_trace_is_a_pass_for_every_token(random_model, lengths, seed):
    model, pairs = random_model(seed), pairs_of(lengths, seed)
    for (source, target), traced in zip(pairs, trace(model, TinyVocabulary(), pairs, 3), strict=True):
        whole = [*target, 3]
        assert traced.tokens.tolist() == whole
        for index, token in enumerate(whole):
            log_probs = next_log_probs(model, source, whole[:index]).tolist()
            entropy = -sum(math.exp(value) * value for value in log_probs)
            wanted = (token, log_probs[token], entropy, log_probs.index(max(log_probs)), max(log_probs))
            assert [part[index] for part in traced] == pytest.approx(wanted)


def test_a_free_text_takes_the_likeliest_token_until_its_end_or_its_limit(random_model):
    ends = set()
    for seed in (2, 3, 4):
        model, sources = talkative(random_model(seed)), [source for source, _ in pairs_of([1, 1, 1], seed)]
        free = write_greedily(model, TinyVocabulary(), sources, 6, size=2)
        traces = trace_greedy(model, TinyVocabulary(), sources, free)
        for source, text, traced in zip(sources, free, traces, strict=True):
            wanted = []
            while 3 not in wanted and len(wanted) < 6:
                wanted.append(int(next_log_probs(model, source, wanted).argmax()))
            assert text == GreedyText([token for token in wanted if token != 3], 3 in wanted)
            assert wanted == traced.tokens.tolist() == traced.best.tolist()
            ends.add(text.ended)
    assert ends == {True, False}


def test_rollouts_depend_on_seed_and_pair_alone(random_model):
    model, pairs, vocabulary = random_model(7), pairs_of([1, 1, 1], 7), TinyVocabulary()
    texts = sample_texts(model, vocabulary, pairs, 7, 3, seed=1, size=1)
    assert (
        texts
        == sample_texts(model, vocabulary, pairs, 7, 3, seed=1, size=3)
        != sample_texts(model, vocabulary, pairs, 7, 3)
    )
    assert [len(row) for row in texts] == [3, 3, 3]
