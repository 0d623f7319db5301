"""A diagnosis as plain values: what the JSON file holds and the page shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from sacrebleu.metrics import CHRF

from s2s.diagnose.comparison import Method, Tests, group
from s2s.diagnose.details import Plain, details
from s2s.diagnose.findings import findings
from s2s.diagnose.headlines import by_corruption, headlines
from s2s.diagnose.measures import Measures, held_out
from s2s.diagnose.quantity import Headline
from s2s.diagnose.samples import samples
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import Examples, Subject
from s2s.errors import own_version
from s2s.files.paths import readable

PRIMARY = "damage_held_out"
"""The endpoint that was declared beforehand."""


def record(
    settings: DiagnosisSettings, examples: Examples, subjects: Sequence[Subject], measured: Sequence[Measures]
) -> Plain:
    """All results; numbers that do not exist are None."""
    heads, kinds, methods = headlines(measured), by_corruption(measured), group(subjects)
    tests = Tests(methods, measured, [*heads, *kinds], settings.resamples, settings.seed)
    found = {
        "signature": signature(settings, examples, measured),
        "settings": asdict(settings),
        "data": {**examples._asdict(), "pairs": len(examples.pairs)},
        "primary": PRIMARY,
        "held_out": held_out(measured),
        "headlines": {head.name: _described(head) for head in heads},
        "methods": [_method(method, tests, heads, kinds) for method in methods],
        "comparisons": [row for head in heads for row in _compared(head, tests)],
        "by_corruption": [row for head in kinds for row in _compared(head, tests)],
        "runs": [
            {**_run(subject, one, number, tests, heads), **details(one, settings.seed)}
            for number, (subject, one) in enumerate(zip(subjects, measured, strict=True))
        ],
        "samples": samples(measured[0], settings.seed),
    }
    plainly = plain(found)
    return {**plainly, "findings": findings(plainly)}


def signature(settings: DiagnosisSettings, examples: Examples, measured: Sequence[Measures]) -> str:
    """What the numbers depend on, in one line."""
    parts = {
        "data": examples.fingerprint,
        "sentences": len(examples.pairs),
        "prefixes": ",".join(map(str, settings.prefixes)),
        "distances": settings.distances,
        "held-out": ",".join(held_out(measured)),
        "beams": ",".join(map(str, settings.beams)),
        "resamples": settings.resamples,
        "seed": settings.seed,
        "units": "tokens of the run's vocabulary",
        "version": f"s2s-{own_version()}",
    }
    return "diagnosis|" + "|".join(f"{name}:{value}" for name, value in parts.items()) + f" + chrF2|{_chrf()}"


def _chrf() -> str:
    metric = CHRF()
    metric.sentence_score("a", ["a"])
    return str(metric.get_signature())


def _described(head: Headline) -> Plain:
    return {"title": head.title, "unit": head.unit, "better": {-1: "lower", 0: "neither", 1: "higher"}[head.better]}


def _method(method: Method, tests: Tests, heads: Sequence[Headline], kinds: Sequence[Headline]) -> Plain:
    return {
        "name": method.name,
        "runs": method.runs,
        "headlines": {head.name: _over_runs(head, method, tests) for head in heads},
        "corruptions": {head.name.removeprefix("damage_"): _over_runs(head, method, tests) for head in kinds},
    }


def _over_runs(head: Headline, method: Method, tests: Tests) -> Plain:
    """A headline's mean and interval, each run's value, and their standard deviation where there are several."""
    values = tests.values(head, method.runs)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {**tests.interval(head, method.runs)._asdict(), "values": values, "deviation": deviation}


def _compared(head: Headline, tests: Tests) -> list[Plain]:
    return [
        {
            "headline": one.headline,
            "method": one.method,
            "baseline": one.baseline,
            **one.found._asdict(),
            "p_randomisation": one.randomisation,
            "p_holm": one.holm,
        }
        for one in tests.compare(head)
    ]


def _run(subject: Subject, one: Measures, number: int, tests: Tests, heads: Sequence[Headline]) -> Plain:
    run = subject.run
    method = next(each.name for each in tests.methods if number in each.runs)
    return {
        "name": one.name,
        "method": method,
        "seed": run.recipe.run.seed,
        "step": run.step,
        "vocabulary": run.vocabulary.size,
        "seen": sorted(one.seen),
        "max_length": one.max_length,
        "report": subject.report,
        "headlines": {head.name: tests.interval(head, [number])._asdict() for head in heads},
    }


def plain(value: Any) -> Any:
    """Values as JSON has them: arrays as lists, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return readable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
