"""Alignment against enumeration, and slopes against loops."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from s2s.diagnose.traces import Trace
from s2s.metrics.bootstrap import bootstrap

short = st.lists(st.integers(0, 2), max_size=5)


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
    left, right = list(hypothesis), list(reference)
    for kind in edits:  # both sides are consumed from the left
        first = left.pop(0) if kind != "D" else None
        second = right.pop(0) if kind != "I" else None
        if kind in "CS":
            assert (kind == "C") == (first == second)
    assert left == right == []


def test_a_token_left_out_costs_one_position_not_all_after_it():
    assert align("bcde", "abcde") == "DCCCC"
    assert align("abxcd", "abcd") == "CCICC"
    assert correct(align("bcde", "abcde")).tolist() == [True] * 4
    assert correct(align("abxcd", "abcd")).tolist() == [True, True, False, True, True]


def random_traces(seed, count):
    """Traces of one to nine tokens of three kinds."""
    generator = np.random.default_rng(seed)
    traces = []
    for _ in range(count):
        tokens = int(generator.integers(1, 10))
        ids = generator.integers(0, 3, size=(2, tokens))
        traces.append(
            Trace(ids[0], -generator.random(tokens), generator.random(tokens), ids[1], -generator.random(tokens))
        )
    return traces


def test_sums_by_relative_position_are_a_loop_over_tokens():
    gold, texts = random_traces(0, 30), random_traces(1, 30)
    marks, _ = aligned(texts, gold)
    rows = statistics(gold, texts, marks, bins=4)
    wanted = {(side, part): Counter() for side in (0, 1) for part in range(4)}
    for reference, text in zip(gold, texts, strict=True):
        right = correct(align(text.tokens.tolist(), reference.tokens.tolist()))
        for side, traced in ((0, reference), (1, text)):
            for index in range(len(traced.tokens)):
                part = int(4 * (index + 0.5) / len(traced.tokens))
                hit = traced.best[index] == traced.tokens[index] if side == 0 else right[index]
                wanted[side, part].update(
                    hit=int(hit), nats=-traced.log_probs[index], entropy=traced.entropies[index], n=1
                )
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
    values = details(run)
    assert values["edits"] == {"correct": 7, "substituted": 0, "inserted": 1, "deleted": 1}
    assert float(values["naive_accuracy"]) == pytest.approx(2 / 8)
