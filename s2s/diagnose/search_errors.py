"""The effect of search: quality by beam width, model and search errors, and locally right, globally wrong.

Scores are sums of log-probabilities without a length penalty. A model error is a text that scores more than gold; a
search error is one that scores less, so the search has missed gold, or something better still.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.diagnose.traces import Marks, Trace
from s2s.metrics.bootstrap import Numbers, mean
from s2s.metrics.repetition import length_ratio
from s2s.metrics.sentence import sentence_metric
from s2s.search.hypotheses import Hypothesis


class Gold(NamedTuple):
    """A gold target, its summed log-probability, its end included, and whether each of its tokens is the likeliest."""

    ids: list[int]
    score: float
    locally_right: bool


class Verdicts(NamedTuple):
    """Marks [N] of sentences. Those that are not judged have no other mark."""

    judged: Marks  # gold and the best text both end within the search's limit
    model_errors: Marks  # the text scores more than gold
    search_errors: Marks  # it scores less
    locally_right: Marks  # each token of gold is the likeliest after the gold prefix
    su_gap: Marks  # of those, the text is another one and scores more


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return what the widest beam loses against the best one, Su's gap, and the share of model errors."""
    widest = list(runs[0].beams)[-1]

    def marks(run: Measurements, kind: str, among: str) -> Numbers:
        verdicts = _verdicts(run, widest)
        return np.stack([getattr(verdicts, kind), getattr(verdicts, among)], axis=1).astype(float)

    beams = f"at {widest} beams"
    gap = partial(marks, kind="su_gap", among="locally_right")
    errors = partial(marks, kind="model_errors", among="judged")
    return [
        Quantity("beam_curse", f"chrF lost {beams} against the best width", "0..100", "lower", qualities, curse),
        Quantity("su_gap", f"locally right, globally wrong {beams} (Su-gap)", "share", "lower", gap, mean),
        Quantity("model_errors", f"texts {beams} that score more than gold", "share", "neither", errors, mean),
    ]


def curse(sums: Numbers) -> Numbers:
    """Return what the widest beam loses against the best width, from sums [..., widths + 1] of ``qualities``."""
    # Each resample has its own best width, so the interval includes the uncertainty of that choice.
    means = sums[..., :-1] / sums[..., -1:]
    return np.asarray(means.max(axis=-1) - means[..., -1])


def details(run: Measurements) -> list[Plain]:
    """Return for each beam width quality, lengths, errors and Su's gap."""
    references = [gold.ids for gold in _golds(run)]
    points = []
    for (beams, best), quality in zip(run.beams.items(), qualities(run).mean(axis=0)[:-1], strict=True):
        verdicts = _verdicts(run, beams)
        points.append(
            {
                "beams": beams,
                "chrf": quality,
                "length_ratio": length_ratio([ids for ids, _ in best], references),
                "empty": sum(not ids for ids, _ in best) / len(best),
                "sentences": verdicts.judged.sum(),
                "model_errors": _share(verdicts.model_errors, verdicts.judged),
                "search_errors": _share(verdicts.search_errors, verdicts.judged),
                "locally_right": verdicts.locally_right.sum(),
                "su_gap": _share(verdicts.su_gap, verdicts.locally_right),
            }
        )
    return points


def _share(marks: Marks, among: Marks) -> Numbers:
    return mean(np.array([marks.sum(), among.sum()]))


def _golds(run: Measurements) -> list[Gold]:
    # Only the first examples are searched: 64 beams cost as much as 64 greedy texts.
    return golds(run.forced[: len(next(iter(run.beams.values())))])


def _verdicts(run: Measurements, beams: int) -> Verdicts:
    return judge(_golds(run), run.beams[beams], run.max_length)


def qualities(run: Measurements) -> Numbers:
    """Return chrF of each sentence's text at each beam width, and 1: [N, widths + 1]."""
    chrf = sentence_metric("chrf")
    columns = [
        [100 * chrf(*pair) for pair in zip(texts, run.references, strict=False)] for texts in run.beam_texts.values()
    ]
    return np.stack([*columns, np.ones(len(columns[0]))], axis=1)


def golds(traces: Sequence[Trace]) -> list[Gold]:
    """Score gold targets by their traces. Where tokens are equally likely, gold is one of the likeliest."""
    return [
        Gold(
            gold.tokens[:-1].tolist(),
            float(gold.log_probs.sum()),
            bool((gold.log_probs >= gold.best_log_probs).all()),
        )
        for gold in traces
    ]


def judge(golds: Sequence[Gold], best: Sequence[Hypothesis], max_length: int, near: float = 1e-4) -> Verdicts:
    """Judge the best text of each source by the score of its gold target.

    A text of ``max_length`` tokens has no end, and so scores more than it would with one; neither it nor a gold target
    that long is judged. Su's gap is his article's example as a rate: each step of teacher forcing finds the right
    token, and the beam another text; one beam cannot. Source: Su Jianlin 2020 (7259); Stahlberg and Byrne, "On NMT
    Search Errors and Model Errors", 2019.
    """
    judged = np.array(
        [max(len(gold.ids), len(ids)) < max_length for gold, (ids, _) in zip(golds, best, strict=True)], dtype=bool
    )
    # One pass over gold and the many steps of a search round differently: scores within ``near`` nats are equal.
    more = np.array([score - gold.score for gold, (_, score) in zip(golds, best, strict=True)])
    above, below = judged & (more > near), judged & (more < -near)
    right = judged & np.array([gold.locally_right for gold in golds], dtype=bool)
    other = np.array([ids != gold.ids for gold, (ids, _) in zip(golds, best, strict=True)], dtype=bool)
    return Verdicts(judged, above, below, right, right & above & other)
