"""What a run's measures are in full, as plain values: curves, bins and counts beside the headlines."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from s2s.diagnose import calibration
from s2s.diagnose.accumulation import LEAST
from s2s.diagnose.gap import accuracies, costs, entropies
from s2s.diagnose.hallucination import hallucinations, wilson
from s2s.diagnose.headlines import judged
from s2s.diagnose.margin import by_token, first_doubt, negative
from s2s.diagnose.measures import Measures
from s2s.diagnose.mismatch import mismatch
from s2s.diagnose.oracle import accumulate
from s2s.diagnose.recovery import Recovery, half_life
from s2s.diagnose.search_errors import outcome
from s2s.diagnose.search_sums import golds, qualities
from s2s.metrics.bootstrap import Numbers, mean
from s2s.metrics.repetition import length_ratio
from s2s.metrics.significance import too_few

Plain = dict[str, Any]
SHOWN = 5
"""Broken texts to look at."""


def details(one: Measures, seed: int) -> Plain:
    """All of a run's measures."""
    return {
        "gap": gap(one),
        "recovery": {name: recovery(one.recovery, name) for name in one.recovery.corruptions},
        "search": search(one),
        "calibration": {
            side: reliability(tokens) for side, tokens in zip(("forced", "free"), judged(one), strict=True)
        },
        "margin": margin(one.margins, seed),
        "mismatch": differences(one, seed),
        "hallucinations": perturbation(one),
        "accumulation": accumulation(one),
    }


def gap(one: Measures) -> Plain:
    """Both sides by relative position, and how the free texts are aligned."""
    sums = one.gap.statistics().sum(axis=0)
    sides = {"accuracy": accuracies(sums), "cost": costs(sums), "entropy": entropies(sums)}
    edits = dict(zip(("correct", "substituted", "inserted", "deleted"), one.gap.edits.sum(axis=0), strict=True))
    curves = {name: {"forced": forced, "free": free} for name, (forced, free) in sides.items()}
    return {**curves, "naive_accuracy": mean(one.gap.same_place.sum(axis=0)), "edits": edits}


def recovery(found: Recovery, name: str) -> Plain:
    """One corruption: its curve over distances, for each number of damaged tokens and on average."""
    curves = {length: found.curve(name, length) for length in found.prefixes}
    average = average_curve(list(curves.values()))
    lengths = {
        str(length): {"curve": curve, "sentences": found.sentences(name, length)} for length, curve in curves.items()
    }
    return {"curve": average, "half_life": half_life(average), "prefixes": lengths}


def average_curve(curves: Sequence[Numbers]) -> Numbers:
    """The mean of curves where they have a value; NaN where none has."""
    each = np.stack(curves)
    there = ~np.isnan(each)
    return mean(np.stack([np.nan_to_num(each).sum(axis=0), there.sum(axis=0)], axis=-1))


def search(one: Measures) -> list[Plain]:
    """Each number of beams: quality, lengths, errors and Su's gap."""
    gold, quality = golds(one), qualities(one).mean(axis=0)
    return [
        {
            "beams": beams,
            "chrf": score,
            "length_ratio": length_ratio([ids for ids, _ in found], [each.ids for each in gold]),
            "empty": sum(not ids for ids, _ in found) / len(found),
            **outcome(gold, [[text] for text in found], one.max_length)._asdict(),
        }
        for (beams, found), score in zip(one.beams.items(), quality[:-1], strict=True)
    ]


def reliability(tokens: Sequence[calibration.Judged]) -> Plain:
    """Accuracy by confidence, and the error over bins of equal width and of equal mass."""
    edges = calibration.equal_width(), calibration.equal_mass(tokens)
    wide, mass = (calibration.statistics(tokens, each).sum(axis=0) for each in edges)
    accuracy, confidence, count = calibration.reliability(wide)
    return {
        "accuracy": accuracy,
        "confidence": confidence,
        "tokens": count,
        "error": calibration.expected_calibration_error(wide),
        "error_equal_mass": calibration.expected_calibration_error(mass),
        "overconfidence": calibration.overconfidence(wide),
    }


def margin(found: Numbers, seed: int) -> Plain:
    """The margin by token with its intervals, and where the doubt begins."""
    paired = int((~np.isnan(found).all(axis=1)).sum())
    if not paired:
        return {"sentences": 0, "by_token": [], "first_doubt": None, "negative": {}}
    intervals = by_token(found[:, ~np.isnan(found).all(axis=0)], seed=seed)
    places = {"5": negative(found, 5), "10": negative(found, 10), "end": negative(found)}
    each = [one._asdict() for one in intervals]
    return {"sentences": paired, "by_token": each, "first_doubt": first_doubt(intervals), "negative": places}


def differences(one: Measures, seed: int) -> Plain:
    """How greedy texts differ from gold ones as sets; nothing where there are fewer than 2."""
    if len(one.forced) < 2:
        return {}
    texts, gold = [text.ids for text in one.free_texts], [trace.tokens[:-1].tolist() for trace in one.forced]
    found = mismatch(texts, gold, seed=seed)
    values = {name: value for name, value in found._asdict().items() if name not in ("ngrams", "distinct", "repeated")}
    orders = {
        name: {str(n): value._asdict() for n, value in getattr(found, name).items()}
        for name in ("ngrams", "distinct", "repeated")
    }
    return {**values, "empty": found.empty._asdict(), "lengths": found.lengths._asdict(), **orders}


def perturbation(one: Measures) -> Plain:
    """Return how many texts break under a perturbed source, with Wilson's interval where they are enough, and which."""
    marks = hallucinations(one.hypotheses, one.perturbed, one.references)
    broken, fit = marks.sum(axis=0).tolist()
    places = np.flatnonzero(marks[:, 0])[:SHOWN].tolist()
    texts = [
        {"source": one.perturbed_sources[place], "before": one.hypotheses[place], "after": one.perturbed[place]}
        for place in places
    ]
    share = wilson(broken, fit)
    if too_few(int(fit)):
        share = share._replace(low=np.nan, high=np.nan)
    return {"broken": broken, "fit": fit, **share._asdict(), "samples": texts}


def accumulation(one: Measures) -> Plain | None:
    """The accumulated error at every length that enough texts have; None without an oracle."""
    if one.divergences is None:
        return None
    found = accumulate(one.divergences, LEAST)
    return {"oracle": one.truth, "exact": one.exact, **found._asdict()}
