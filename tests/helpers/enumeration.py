"""All that a sampler may find, and whether it finds it as often as it should."""

import itertools
import math
from collections.abc import Sequence

from sequences import END

from s2s.mitigations.candidates import Candidate


def all_sequences(size: int, max_length: int) -> list[Candidate]:
    """Every candidate that a search of at most so many tokens can find."""
    plain = [token for token in range(size) if token != END]
    ended = [ids for length in range(max_length) for ids in itertools.product(plain, repeat=length)]
    full = itertools.product(plain, repeat=max_length)
    return [*(Candidate(list(ids), True) for ids in ended), *(Candidate(list(ids), False) for ids in full)]


def assert_frequencies(observed: Sequence[int], chances: Sequence[float]) -> None:
    """Pearson's statistic is within 5 standard deviations of its mean; rare outcomes count as one."""
    trials, pairs = sum(observed), list(zip(observed, chances, strict=True))
    assert abs(sum(chances) - 1) < 1e-9
    common = [(o, trials * p) for o, p in pairs if trials * p >= 10]
    rare = (trials - sum(o for o, _ in common), max(0.0, trials - sum(e for _, e in common)))
    bins = [*common, rare] if rare[1] >= 10 else common
    statistic, freedom = sum((o - e) ** 2 / e for o, e in bins), len(bins) - 1
    assert freedom >= 3
    assert abs(statistic - freedom) <= 5 * math.sqrt(2 * freedom)
    assert abs(rare[0] - rare[1]) <= 5 * math.sqrt(rare[1]) + 5
