"""Traces against one pass a token, alignment against enumeration, and slopes against loops."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of, talkative
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.batch import collate
from s2s.diagnose.gap import (
    ACCURACY,
    COST,
    ENTROPY,
    accuracy,
    align,
    aligned,
    along,
    correct,
    details,
    eb_slope,
    language_slope,
    slope,
    statistics,
)
from s2s.diagnose.traces import GreedyText, Trace, trace, trace_greedy, write_greedily
from s2s.metrics.bootstrap import bootstrap

short = st.lists(st.integers(0, 2), max_size=5)


def next_log_probs(model, source, prefix):
    batch = collate([(source, prefix)], 0, 3)
    with torch.no_grad():
        hidden = model.decode(batch.target, model.encode(batch.source, batch.source_lengths))
        return model.logits(hidden)[0, -1].log_softmax(dim=-1)


def every_alignment(hypothesis, reference):
    """All ways through the table, as the kinds of their edits."""
    if not hypothesis or not reference:
        yield ["I"] * len(hypothesis) + ["D"] * len(reference)
        return
    kind = "C" if hypothesis[0] == reference[0] else "S"
    yield from ([kind, *rest] for rest in every_alignment(hypothesis[1:], reference[1:]))
    yield from (["I", *rest] for rest in every_alignment(hypothesis[1:], reference))
    yield from (["D", *rest] for rest in every_alignment(hypothesis, reference[1:]))


@given(short, short)
@settings(deadline=None, max_examples=60)
def test_an_alignment_is_one_of_the_cheapest_and_pairs_equal_tokens_as_correct(hypothesis, reference):
    edits = align(hypothesis, reference)
    cheapest = min(sum(kind != "C" for kind in kinds) for kinds in every_alignment(hypothesis, reference))
    assert sum(kind != "C" for kind in edits) == cheapest
    ours, theirs = list(hypothesis), list(reference)
    for kind in edits:  # both sides are consumed from the left
        first = ours.pop(0) if kind != "D" else None
        second = theirs.pop(0) if kind != "I" else None
        if kind in "CS":
            assert (kind == "C") == (first == second)
    assert ours == theirs == []


def test_a_token_left_out_costs_one_position_not_all_after_it():
    assert align("bcde", "abcde") == "DCCCC"
    assert align("abxcd", "abcd") == "CCICC"
    assert correct(align("bcde", "abcde")).tolist() == [True] * 4
    assert correct(align("abxcd", "abcd")).tolist() == [True, True, False, True, True]


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=4)
def test_a_trace_is_a_pass_for_every_token(random_model, lengths, seed):
    model, pairs = random_model(seed), pairs_of(lengths, seed)
    for (source, target), found in zip(pairs, trace(model, TinyVocabulary(), pairs, 3), strict=True):
        whole = [*target, 3]
        assert found.tokens.tolist() == whole
        for place, token in enumerate(whole):
            log_probs = next_log_probs(model, source, whole[:place]).tolist()
            entropy = -sum(math.exp(value) * value for value in log_probs)
            wanted = (token, log_probs[token], entropy, log_probs.index(max(log_probs)), max(log_probs))
            assert [part[place] for part in found] == pytest.approx(wanted)


def test_a_free_text_takes_the_likeliest_token_until_its_end_or_its_limit(random_model):
    ends = set()
    for seed in (2, 3, 4):
        model, sources = talkative(random_model(seed)), [source for source, _ in pairs_of([1, 1, 1], seed)]
        free = write_greedily(model, TinyVocabulary(), sources, 6, size=2)
        traces = trace_greedy(model, TinyVocabulary(), sources, free)
        for source, text, found in zip(sources, free, traces, strict=True):
            wanted = []
            while 3 not in wanted and len(wanted) < 6:
                wanted.append(int(next_log_probs(model, source, wanted).argmax()))
            assert text == GreedyText([token for token in wanted if token != 3], 3 in wanted)
            assert wanted == found.tokens.tolist() == found.best.tolist()
            ends.add(text.ended)
    assert ends == {True, False}


def random_traces(seed, count):
    """Traces of one to nine tokens of three kinds."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = int(generator.integers(1, 10))
        ids = generator.integers(0, 3, size=(2, tokens))
        found.append(
            Trace(ids[0], -generator.random(tokens), generator.random(tokens), ids[1], -generator.random(tokens))
        )
    return found


def test_sums_by_relative_position_are_a_loop_over_tokens():
    gold, own = random_traces(0, 30), random_traces(1, 30)
    marks, _ = aligned(own, gold)
    rows = statistics(gold, own, marks, bins=4)
    wanted = {(side, part): Counter() for side in (0, 1) for part in range(4)}
    for reference, text in zip(gold, own, strict=True):
        right = correct(align(text.tokens.tolist(), reference.tokens.tolist()))
        for side, one in ((0, reference), (1, text)):
            for place in range(len(one.tokens)):
                part = int(4 * (place + 0.5) / len(one.tokens))
                hit = one.best[place] == one.tokens[place] if side == 0 else right[place]
                wanted[side, part].update(hit=int(hit), nats=-one.log_probs[place], entropy=one.entropies[place], n=1)
    sums = rows.sum(axis=0)
    for kind, name in ((ACCURACY, "hit"), (COST, "nats"), (ENTROPY, "entropy")):
        for side, values in enumerate(along(sums, kind)):
            assert values == pytest.approx([wanted[side, part][name] / wanted[side, part]["n"] for part in range(4)])
    for side in (0, 1):
        hits, tokens = (sum(wanted[side, part][name] for part in range(4)) for name in ("hit", "n"))
        assert float(accuracy(sums, side)) == pytest.approx(hits / tokens)
    forced, free = along(sums, ACCURACY)
    assert float(eb_slope(sums)) == pytest.approx(np.polyfit([0.125, 0.375, 0.625, 0.875], forced - free, 1)[0])
    assert float(language_slope(sums)) == pytest.approx(float(slope(along(sums, COST)[0])))
    assert bootstrap(rows, eb_slope, samples=50).estimate == pytest.approx(float(eb_slope(sums)))


def test_the_edits_of_texts_are_counted_by_kind():
    def traced(text):
        ids = np.array([ord(letter) for letter in text])
        return Trace(ids, np.zeros(len(ids)), np.zeros(len(ids)), ids, np.zeros(len(ids)))

    gold, texts = [traced("abcde"), traced("abc")], [traced("bcde"), traced("abxc")]
    marks, edits = aligned(texts, gold)
    assert edits.tolist() == [[4, 0, 0, 1], [3, 0, 1, 0]]
    sums = statistics(gold, texts, marks).sum(axis=0).reshape(2, -1, 4)
    assert sums[..., 0].sum(axis=1).tolist() == [8, 7]
    run = SimpleNamespace(forced=gold, free=texts, correct=marks, edits=edits)
    found = details(run)
    assert found["edits"] == {"correct": 7, "substituted": 0, "inserted": 1, "deleted": 1}
    assert float(found["naive_accuracy"]) == pytest.approx(2 / 8)
