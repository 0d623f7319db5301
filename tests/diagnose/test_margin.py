"""Margins of gold over other targets against scores of one pair at a time, and their summaries."""

import math

import numpy as np
import pytest
import torch
from diagnosed import TinyVocabulary, pairs_of

from s2s.batch import collate
from s2s.diagnose.margin import by_token, distractors, first_doubt, measure_margins, negative
from s2s.losses.passes import target_log_probs
from s2s.metrics.bootstrap import Interval


def test_margins_are_differences_of_scores_with_another_target_of_equal_length(random_model):
    model, pairs = random_model(0), pairs_of([3, 5, 3, 4, 3, 5], 0)
    chosen = distractors([target for _, target in pairs])
    margins = measure_margins(model, TinyVocabulary(), pairs, size=4)
    assert [other is None for other in chosen] == [False, False, False, True, False, False]
    for row, (source, target), other in zip(margins, pairs, chosen, strict=True):
        if other is None:
            assert np.isnan(row).all()
            continue
        assert len(other) == len(target)
        assert other != target
        with torch.no_grad():
            gold, wrong = target_log_probs(model, collate([(source, target), (source, other)], 0, 3)).tolist()
        wanted = [a - b for a, b in zip(gold, wrong, strict=True)]
        assert row[: len(wanted)] == pytest.approx(wanted, abs=1e-5)
        assert np.isnan(row[len(wanted) :]).all()


def test_summaries_of_margins():
    margins = np.array([[1.0, -3.0, math.nan], [2.0, -1.0, 4.0], [3.0, 1.0, -5.0], [math.nan] * 3])
    assert [interval.estimate for interval in by_token(margins, 20)] == pytest.approx([2, -1, -0.5])
    assert negative(margins) == pytest.approx(2 / 3)
    assert negative(margins, 2) == pytest.approx(1 / 3)
    assert negative(margins, 3) == 0.5
    assert math.isnan(negative(margins, 4))
    intervals = [Interval(1.0, 0.5, 2.0), Interval(1.0, 0.0, 2.0)]
    assert first_doubt(intervals) == 2
    assert first_doubt(intervals[:1]) is None
