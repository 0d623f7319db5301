"""Teacher-forced against free-running accuracy along a text: does the difference grow?

The level of the gap says little: one reference is not the only right text. What accumulates shows in its slope over
relative position, compared with the slope of teacher forcing's own cost, which is the language's (Wu et al., "Beyond
Error Propagation in Neural Machine Translation: Characteristics of Language Also Matter", 2018).
"""

from collections.abc import Hashable, Sequence
from functools import partial

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.diagnose.traces import Integers, Marks, Trace
from s2s.metrics.bootstrap import Numbers, mean

BINS = 5
"""Parts into which each text is divided from its beginning to its end."""
KINDS = {"C": "correct", "S": "substituted", "I": "inserted", "D": "deleted"}
"""Edits; an inserted token is only in the hypothesis, a deleted one only in the reference."""
ACCURACY, COST, ENTROPY, TOKENS = range(4)
"""The last axis of the statistics: correct tokens, nats, nats of entropy, tokens."""


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:  # noqa: ARG001
    """Return how the gap grows along a text, its control, and both accuracies over whole texts."""

    def sums(run: Measurements) -> Numbers:
        return statistics(run.forced, run.free, run.correct)

    growth = "growth of the gap along a text", "growth of the cost of gold along a text"
    return [
        Quantity("eb_slope", growth[0], "accuracy", "lower", sums, eb_slope),
        Quantity("language_slope", growth[1], "nats", "neither", sums, language_slope),
        Quantity("accuracy_forced", "accuracy after gold prefixes", "share", "higher", sums, partial(accuracy, side=0)),
        Quantity("accuracy_free", "accuracy after own prefixes", "share", "higher", sums, partial(accuracy, side=1)),
    ]


def details(run: Measurements) -> Plain:
    """Return both sides by relative position, and how the greedy texts are aligned with gold."""
    sums = statistics(run.forced, run.free, run.correct).sum(axis=0)
    kinds = {"accuracy": ACCURACY, "cost": COST, "entropy": ENTROPY}
    curves = {name: dict(zip(("forced", "free"), along(sums, kind), strict=True)) for name, kind in kinds.items()}
    # The naive accuracy ignores shifts: one token left out makes all later ones wrong. It is shown for contrast.
    equal = [_same_position(text.tokens, gold.tokens) for text, gold in zip(run.free, run.forced, strict=True)]
    naive = mean(np.array([sum(equal), sum(len(text.tokens) for text in run.free)]))
    edits = dict(zip(KINDS.values(), run.edits.sum(axis=0), strict=True))
    return {**curves, "naive_accuracy": naive, "edits": edits}


def statistics(forced: Sequence[Trace], free: Sequence[Trace], correct: Sequence[Marks], bins: int = BINS) -> Numbers:
    """Sum each of N sentences by relative position, [N, 2 * bins * 4], the sides being gold and greedy texts.

    A token of gold is correct where it is the likeliest, a token of a greedy text where ``correct`` marks it.
    """
    sides = (
        [_binned(gold, gold.best == gold.tokens, bins) for gold in forced],
        [_binned(text, marks, bins) for text, marks in zip(free, correct, strict=True)],
    )
    return np.stack(sides, axis=1).reshape(len(forced), -1)


def along(sums: Numbers, kind: int) -> tuple[Numbers, Numbers]:
    """Return the mean of a kind at each part of a text, [..., bins], forced and free; NaN without tokens."""
    sides = sums.reshape(*sums.shape[:-1], 2, -1, 4)[..., [kind, TOKENS]]
    return mean(sides[..., 0, :, :]), mean(sides[..., 1, :, :])


def accuracy(sums: Numbers, side: int) -> Numbers:
    """Return a side's accuracy over whole texts, [...]."""
    return mean(sums.reshape(*sums.shape[:-1], 2, -1, 4)[..., side, :, :].sum(axis=-2)[..., [ACCURACY, TOKENS]])


def eb_slope(sums: Numbers) -> Numbers:
    """Return how much the gap of accuracies grows from the beginning of a text to its end."""
    forced, free = along(sums, ACCURACY)
    return slope(forced - free)


def language_slope(sums: Numbers) -> Numbers:
    """Return how much the cost of gold after gold prefixes grows along a text, in nats: the control."""
    return slope(along(sums, COST)[0])


def slope(values: Numbers) -> Numbers:
    """Fit a line by least squares through values [..., bins] over relative position in [0, 1]; return its slope."""
    bins = values.shape[-1]
    positions = (np.arange(bins) + 0.5) / bins
    centred = positions - positions.mean()
    slopes: Numbers = (values * centred).sum(axis=-1) / (centred**2).sum()
    return slopes


def _binned(trace: Trace, correct: Marks, bins: int) -> Numbers:
    """Sum a trace by parts, [bins, 4]; the middle of a token decides to which part it belongs."""
    sums, tokens = np.zeros((bins, 4)), len(trace.tokens)
    parts = ((np.arange(tokens) + 0.5) * bins / tokens).astype(int)
    np.add.at(sums, parts, np.stack([correct, -trace.log_probs, trace.entropies, np.ones(tokens)], axis=1))
    return sums


def _same_position(tokens: Integers, gold: Integers) -> int:
    shared = min(len(tokens), len(gold))
    return int((tokens[:shared] == gold[:shared]).sum())


def aligned(free: Sequence[Trace], forced: Sequence[Trace]) -> tuple[list[Marks], Numbers]:
    """Align texts with gold: return which of their tokens are correct, and each text's numbers of edits, [N, 4]."""
    edits = [align(text.tokens.tolist(), gold.tokens.tolist()) for text, gold in zip(free, forced, strict=True)]
    counts = [[kinds.count(kind) for kind in KINDS] for kinds in edits]
    return [correct(kinds) for kinds in edits], np.array(counts, dtype=float)


def correct(edits: str) -> Marks:
    """Mark the tokens of the hypothesis that are aligned with an equal one."""
    return np.array([kind == "C" for kind in edits if kind != "D"], dtype=bool)


def align(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> str:
    """Return the ``KINDS`` of the cheapest edits from reference to hypothesis, from left to right.

    Each edit costs 1, a correct token nothing. Of equally cheap ways it takes, from the right end, first tokens that
    are paired, then insertions. Source: Levenshtein, "Binary Codes Capable of Correcting Deletions, Insertions and
    Reversals", 1966.
    """
    costs = _edit_costs(hypothesis, reference)
    row, column, edits = len(hypothesis), len(reference), ""
    while row or column:
        same = row > 0 and column > 0 and hypothesis[row - 1] == reference[column - 1]
        if row and column and costs[row, column] == costs[row - 1, column - 1] + (not same):
            row, column, edits = row - 1, column - 1, edits + ("C" if same else "S")
        elif row and costs[row, column] == costs[row - 1, column] + 1:
            row, edits = row - 1, edits + "I"
        else:
            column, edits = column - 1, edits + "D"
    return edits[::-1]


def _edit_costs(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> Integers:
    """Return the edit distance of each beginning of the hypothesis from each beginning of the reference."""
    costs = np.zeros((len(hypothesis) + 1, len(reference) + 1), dtype=np.int64)
    costs[0] = np.arange(len(reference) + 1)
    costs[:, 0] = np.arange(len(hypothesis) + 1)
    for row, token in enumerate(hypothesis, start=1):
        for column, other in enumerate(reference, start=1):
            unpaired = min(costs[row - 1, column], costs[row, column - 1]) + 1
            costs[row, column] = min(unpaired, costs[row - 1, column - 1] + (token != other))
    return costs
