"""The headlines of the error that accumulates against an oracle."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from s2s.diagnose.measures import Measures
from s2s.diagnose.oracle import accumulate, excess
from s2s.diagnose.quantity import LOWER, Headline
from s2s.metrics.bootstrap import Numbers

LEAST = 100
"""How many texts must be as long for an accumulated error to be told."""


def accumulated(measured: Sequence[Measures]) -> list[Headline]:
    """The excess of accumulated error at the middle and at the long end of gold's lengths, where there is an oracle."""
    found = [one.divergences for one in measured]
    there = [one for one in found if one is not None]
    if len(there) < len(found):
        return []
    longest = min(len(accumulate(one, LEAST).texts) for one in there)
    lengths = np.quantile([len(trace.tokens) for trace in measured[0].forced], [0.5, 0.9]).astype(int)
    percents = {50: int(lengths[0]), 90: int(lengths[1])}
    return [
        Headline(
            f"excess_error_{percent}", f"accumulated error in excess, after {min(length, longest)} tokens", "%", LOWER,
            partial(_divergences, length=min(length, longest)), excess,
        )
        for percent, length in percents.items() if longest
    ]  # fmt: skip


def _divergences(one: Measures, length: int) -> Numbers:
    assert one.divergences is not None
    return one.divergences.statistics(length)
