"""A diagnosis as plain values, which the JSON file holds and the page shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

import numpy as np
from sacrebleu.metrics import CHRF

from s2s.diagnose import calibration, gap, hallucination, margin, oracle, recovery, search_errors, texts
from s2s.diagnose.comparison import Resampling, group
from s2s.diagnose.findings import findings
from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import Examples, Subject
from s2s.errors import own_version
from s2s.files.paths import readable
from s2s.randomness import seed_of

PRIMARY = "damage_held_out"
"""The endpoint that was declared beforehand. Clean cost and quality are its guards."""
SAMPLES = 2
"""Samples of each corruption."""


def record(
    settings: DiagnosisSettings, examples: Examples, subjects: Sequence[Subject], runs: Sequence[Measurements]
) -> Plain:
    """Return all results; numbers that do not exist are None."""
    headlines, kinds, methods = (
        quantities(runs),
        recovery.by_corruption(runs),
        group([subject.run for subject in subjects]),
    )
    resampling = Resampling(methods, runs, [*headlines, *kinds], settings.resamples, settings.seed)
    names = {number: method.name for method in methods for number in method.runs}
    results = {
        "signature": signature(settings, examples, runs),
        "settings": asdict(settings),
        "data": {**examples._asdict(), "pairs": len(examples.pairs)},
        "primary": PRIMARY,
        "held_out": recovery.held_out(runs),
        "headlines": {
            quantity.name: {"title": quantity.title, "unit": quantity.unit, "better": quantity.better}
            for quantity in headlines
        },
        "methods": [
            {
                **method._asdict(),
                "headlines": {quantity.name: resampling.over_runs(quantity, method) for quantity in headlines},
                "corruptions": {
                    quantity.name.removeprefix("damage_"): resampling.over_runs(quantity, method) for quantity in kinds
                },
            }
            for method in methods
        ],
        "comparisons": [row for quantity in headlines for row in resampling.compare(quantity)],
        "by_corruption": [row for quantity in kinds for row in resampling.compare(quantity)],
        "runs": [
            {
                **_described(subject, run, names[number]),
                "headlines": {head.name: resampling.interval(head, [number])._asdict() for head in headlines},
                **details(run, settings.seed),
            }
            for number, (subject, run) in enumerate(zip(subjects, runs, strict=True))
        ],
        "samples": samples(runs[0], settings.seed),
    }
    # Findings read plain values, in which a number that does not exist is None and cannot slip into a sentence.
    plainly = plain(results)
    return {**plainly, "findings": findings(plainly)}


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return the headlines that these runs have, the primary one first; the same for each run."""
    modules = (recovery, gap, texts, margin, calibration, search_errors, hallucination, oracle)
    return [quantity for module in modules for quantity in module.quantities(runs)]


def details(run: Measurements, seed: int) -> Plain:
    """Return the curves, bins and counts of all that was measured of a run."""
    return {
        "gap": gap.details(run),
        "recovery": recovery.details(run),
        "search": search_errors.details(run),
        "calibration": calibration.details(run),
        "margin": margin.details(run, seed),
        "mismatch": texts.details(run, seed),
        "hallucinations": hallucination.details(run),
        "accumulation": oracle.details(run),
    }


def signature(settings: DiagnosisSettings, examples: Examples, runs: Sequence[Measurements]) -> str:
    """Return a line with all that the numbers depend on besides the runs."""
    parts = {
        "data": examples.fingerprint,
        "sentences": len(examples.pairs),
        "prefixes": ",".join(map(str, settings.prefixes)),
        "distances": settings.distances,
        "held-out": ",".join(recovery.held_out(runs)),
        "beams": ",".join(map(str, settings.beams)),
        "resamples": settings.resamples,
        "seed": settings.seed,
        "units": "tokens of the run's vocabulary",
        "version": f"s2s-{own_version()}",
    }
    metric = CHRF()
    metric.sentence_score("a", ["a"])  # before a first score it has no signature
    line = "|".join(f"{name}:{value}" for name, value in parts.items())
    return f"diagnosis|{line} + chrF2|{metric.get_signature()}"


def _described(subject: Subject, measured: Measurements, method: str) -> Plain:
    return {
        "name": measured.name,
        "method": method,
        "seed": subject.run.recipe.run.seed,
        "step": subject.run.step,
        "vocabulary": subject.run.vocabulary.size,
        "seen": sorted(measured.seen),
        "max_length": measured.max_length,
        "report": subject.report,
    }


def samples(run: Measurements, seed: int) -> list[Plain]:
    """Draw some examples of each corruption by the seed, each with its longest damaged prefix."""
    drawn = []
    for row, name in enumerate(run.recovery.corruptions):
        valid = ~np.isnan(run.recovery.deltas[row]).all(axis=-1)  # [prefixes, N]
        examples = np.flatnonzero(valid.any(axis=0)).tolist()
        # A draw of its own for each corruption: one more corruption does not change the samples of the others.
        chosen = Random(seed_of(seed, "samples", name)).sample(examples, min(SAMPLES, len(examples)))
        drawn += [_sample(run, row, int(np.flatnonzero(valid[:, example])[-1]), example) for example in chosen]
    return drawn


def _sample(run: Measurements, row: int, column: int, example: int) -> Plain:
    """Show a damaged prefix, and the cost that each token after it has more than after the gold prefix."""
    length, name = run.recovery.prefixes[column], run.recovery.corruptions[row]
    damaged, deltas = run.recovery.damaged[row, column, example], run.recovery.deltas[row, column, example]
    gold, costs = run.forced[example].tokens.tolist(), deltas[~np.isnan(deltas)].tolist()
    return {
        "corruption": name,
        "seen": name in run.seen,
        "source": run.sources[example],
        "prefix": run.decode(gold[:length]),
        "damaged": run.decode(damaged[damaged != recovery.NO_TOKEN].tolist()),
        "behind": [
            {"text": run.decode([token]) or "(end)", "delta": cost}
            for token, cost in zip(gold[length:], costs, strict=False)
        ],
        "free": run.hypotheses[example],
    }


def plain(value: Any) -> Any:
    """Turn values into those that JSON has: arrays into lists, NaN and infinities into None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
