"""Does a model prefer the gold target to another sentence's, late in a text too?

margin(t) = log p(y_t | x, y_<t) - log p(d_t | x, d_<t), d being another target of equal length. Where it is not above
0 the model continues its prefix whatever the source says, as hallucinations do. Source: Wang and Sennrich, "On
Exposure Bias, Hallucination and Domain Shift in Neural Machine Translation", 2020.
"""

from collections.abc import Sequence
from random import Random

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.diagnose.traces import OnProgress, Pair, no_progress, trace
from s2s.metrics.bootstrap import Interval, Numbers, bootstrap, enough, mean, weighted
from s2s.model.backbone import Backbone
from s2s.randomness import seed_of
from s2s.vocabulary import Vocabulary


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return the share of gold targets that lose; nothing where no target has another one of its length."""

    def statistics(run: Measurements) -> Numbers:
        sums, paired = np.nansum(run.margins, axis=1), ~np.isnan(run.margins).all(axis=1)
        return np.stack([(sums < 0) & paired, paired], axis=1).astype(float)

    title = "sentences whose gold target is worth less than another one"
    paired = all(not np.isnan(run.margins).all() for run in runs)
    return [Quantity("distracted", title, "share", "lower", statistics, mean)] if paired else []


def details(run: Measurements, seed: int) -> Plain:
    """Return the mean margin by token with its intervals, and the first token at which it is not surely above 0."""
    paired = int((~np.isnan(run.margins).all(axis=1)).sum())
    if not paired:
        return {"sentences": 0, "by_token": [], "first_doubt": None, "negative": {}}
    intervals = by_token(run.margins[:, ~np.isnan(run.margins).all(axis=0)], seed=seed)
    return {
        "sentences": paired,
        "by_token": [interval._asdict() for interval in intervals],
        "first_doubt": first_doubt(intervals),
        "negative": {"5": negative(run.margins, 5), "10": negative(run.margins, 10), "end": negative(run.margins)},
    }


def by_token(margins: Numbers, samples: int = 1000, seed: int = 0) -> list[Interval]:
    """Return the mean margin at each token, with its 95% interval over sentences; NaN where they are too few."""
    columns = [weighted(column) for column in margins.T]
    return [
        bootstrap(column, mean, samples, seed)
        if enough(column)
        else Interval(float(mean(column.sum(axis=0))), np.nan, np.nan)
        for column in columns
    ]


def first_doubt(intervals: Sequence[Interval]) -> int | None:
    """Return the first token, from 1, whose interval is not above 0; None where all are that there are."""
    return next((number for number, interval in enumerate(intervals, start=1) if interval.low <= 0), None)


def negative(margins: Numbers, tokens: int | None = None) -> float:
    """Return the share of sentences whose first ``tokens`` margins, or all of them, sum to less than 0.

    Shorter sentences do not count; NaN where none is left.
    """
    part = margins if tokens is None else margins[:, :tokens]
    counted = ~np.isnan(part[:, 0]) if tokens is None else ~np.isnan(part).any(axis=1)
    if not counted.any() or (tokens is not None and tokens > margins.shape[1]):
        return float("nan")
    return float((np.nansum(part[counted], axis=1) < 0).mean())


def measure_margins(
    model: Backbone,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> Numbers:
    """Return the margin [N, tokens] in nats of each token of each target, its end included; NaN after the end.

    A target without another one of its length has NaN only. The model is in evaluation mode.
    """
    others = distractors([target for _, target in pairs], seed)
    # A target without a distractor is traced as its own, so that both lists of traces have an entry for each pair.
    wrong = [(source, other or target) for (source, target), other in zip(pairs, others, strict=True)]
    gold_traces = trace(model, vocabulary, pairs, size)
    wrong_traces = trace(model, vocabulary, wrong, size, on_progress)
    margins = np.full((len(pairs), max(len(gold.tokens) for gold in gold_traces)), np.nan)
    for row, gold, distractor, other in zip(margins, gold_traces, wrong_traces, others, strict=True):
        if other is not None:
            row[: len(gold.tokens)] = gold.log_probs - distractor.log_probs
    return margins


def distractors(targets: Sequence[Sequence[int]], seed: int = 0) -> list[Sequence[int] | None]:
    """Draw for each target another one of its length, from (seed, number of the target); None where there is none."""
    chosen: list[Sequence[int] | None] = []
    for number, target in enumerate(targets):
        # Of equal length, since log-probabilities of more tokens sum to less.
        others = [other for other in targets if len(other) == len(target) and list(other) != list(target)]
        chosen.append(Random(seed_of(seed, "margin", number)).choice(others) if others else None)
    return chosen
