"""Examples to look at: damaged prefixes, and what each token behind them costs more than behind gold."""

from random import Random

import numpy as np

from s2s.diagnose.details import Plain
from s2s.diagnose.measures import Measures
from s2s.diagnose.recovery import NO_TOKEN
from s2s.randomness import seed_of

EACH = 2
"""Samples of each corruption."""


def samples(one: Measures, seed: int) -> list[Plain]:
    """For each corruption some examples of a run, drawn by the seed, damaged as deep as they were."""
    found = []
    for row, name in enumerate(one.recovery.corruptions):
        there = ~np.isnan(one.recovery.deltas[row]).all(axis=-1)  # [prefixes, N]
        examples = np.flatnonzero(there.any(axis=0)).tolist()
        chosen = Random(seed_of(seed, "samples", name)).sample(examples, min(EACH, len(examples)))
        found += [_sample(one, row, int(np.flatnonzero(there[:, example])[-1]), example) for example in chosen]
    return found


def _sample(one: Measures, row: int, column: int, example: int) -> Plain:
    length, name = one.recovery.prefixes[column], one.recovery.corruptions[row]
    damaged = one.recovery.damaged[row, column, example]
    gold = one.forced[example].tokens.tolist()
    deltas = one.recovery.deltas[row, column, example]
    costs = deltas[~np.isnan(deltas)].tolist()
    behind = gold[length : length + len(costs)]
    return {
        "corruption": name,
        "seen": name in one.seen,
        "source": one.sources[example],
        "prefix": one.decode(gold[:length]),
        "damaged": one.decode(damaged[damaged != NO_TOKEN].tolist()),
        "behind": [{"text": _text(one, token), "delta": cost} for token, cost in zip(behind, costs, strict=True)],
        "free": one.hypotheses[example],
    }


def _text(one: Measures, token: int) -> str:
    """A token as text; the end has none of its own."""
    return one.decode([token]) or "(end)"
