"""Runs grouped into methods, and their quantities: intervals, and tests of each method against the first one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.metrics.bootstrap import (
    Comparison,
    Interval,
    Numbers,
    approximate_randomisation,
    bootstrap_over_seeds,
    compare,
    enough,
    hierarchical_bootstrap,
    holm,
)
from s2s.mitigations import MITIGATIONS
from s2s.runs.run import Run


class Method(NamedTuple):
    """Runs that differ only in seed and folder, by their numbers."""

    name: str
    runs: list[int]


class Resampling:
    """Intervals and comparisons of the quantities of all runs; everything is drawn from one seed."""

    def __init__(
        self,
        methods: Sequence[Method],
        runs: Sequence[Measurements],
        quantities: Sequence[Quantity],
        resamples: int,
        seed: int,
    ) -> None:
        self.methods, self.resamples, self.seed = methods, resamples, seed
        # Each statistic is computed once: intervals of runs, of methods and all comparisons read the same sums.
        self.sums = {quantity.name: [quantity.statistics(run) for run in runs] for quantity in quantities}

    def interval(self, quantity: Quantity, runs: Sequence[int]) -> Interval:
        """Return a quantity's mean over runs and its interval over sentences, over runs too where there are several.

        The interval is NaN where the sentences are too few.
        """
        sums = self._sums(quantity, runs)
        if not enough(sums):
            return Interval(float(quantity.value(sums.sum(axis=1)).mean()), np.nan, np.nan)
        return bootstrap_over_seeds(sums, quantity.value, self.resamples, self.seed)

    def over_runs(self, quantity: Quantity, method: Method) -> Plain:
        """Return a method's mean and interval, each run's value, and their deviation where there are several."""
        values = [float(quantity.value(sums.sum(axis=0))) for sums in self._sums(quantity, method.runs)]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return {**self.interval(quantity, method.runs)._asdict(), "values": values, "deviation": deviation}

    def compare(self, quantity: Quantity) -> list[Plain]:
        """Compare every other method with the first one, with Holm's correction over them.

        Where the sentences are too few the interval and all p are NaN; only where each method has one run does
        randomisation have a p.
        """
        first, others = self.methods[0], self.methods[1:]
        tests = [self._test(quantity, other, first) for other in others]
        # A test without a p-value stays in Holm's family, as one that finds nothing.
        corrected = holm([test.p if np.isfinite(test.p) else 1.0 for test, _ in tests])
        return [
            {
                "headline": quantity.name,
                "method": other.name,
                "baseline": first.name,
                **test._asdict(),
                "p_randomisation": p_randomisation,
                "p_holm": np.nan if np.isnan(test.p) else p_holm,
            }
            for other, (test, p_randomisation), p_holm in zip(others, tests, corrected, strict=True)
        ]

    def _test(self, quantity: Quantity, other: Method, first: Method) -> tuple[Comparison, float | None]:
        sides, value = (self._sums(quantity, other.runs), self._sums(quantity, first.runs)), quantity.value
        if not enough(*sides):
            means = [value(sums.sum(axis=1)).mean() for sums in sides]
            return Comparison(float(means[0] - means[1]), np.nan, np.nan, np.nan), None
        if max(map(len, sides)) > 1:
            return hierarchical_bootstrap(*sides, value, self.resamples, self.seed), None
        pair = sides[0][0], sides[1][0]
        comparison = compare(*pair, value, self.resamples, self.seed)
        return comparison, approximate_randomisation(*pair, value, self.resamples, self.seed)

    def _sums(self, quantity: Quantity, runs: Sequence[int]) -> Numbers:
        return np.stack([self.sums[quantity.name][run] for run in runs])


def group(runs: Sequence[Run]) -> list[Method]:
    """Group runs into methods, in the order of their first runs.

    A method is named after its mitigations; where two methods have the same ones, by the folder of its first run too.
    """
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        recipe = replace(run.recipe, run=replace(run.recipe.run, seed=0, folder="any"))
        groups.setdefault(recipe.to_yaml(), []).append(number)
    names = [_name(runs[numbers[0]]) for numbers in groups.values()]
    return [
        Method(name if names.count(name) == 1 else f"{name} ({runs[numbers[0]].folder.name})", numbers)
        for name, numbers in zip(names, groups.values(), strict=True)
    ]


def _name(run: Run) -> str:
    kinds = {kind: name for name, kind in MITIGATIONS.items()}
    return " + ".join(kinds[type(method)] for method in run.recipe.mitigations) or "teacher_forcing"
