"""Runs grouped into methods, their headlines with intervals, and the tests of methods against the first one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s2s.diagnose.measures import Measures
from s2s.diagnose.quantity import Headline
from s2s.diagnose.subjects import Subject, same_method
from s2s.metrics.bootstrap import (
    Interval,
    Numbers,
    approximate_randomisation,
    bootstrap_over_seeds,
    enough,
    hierarchical_bootstrap,
    holm,
    paired_bootstrap,
)
from s2s.metrics.significance import Comparison
from s2s.mitigations import MITIGATIONS


class Method(NamedTuple):
    """Runs that differ only in seed and folder, by their numbers."""

    name: str
    runs: list[int]


class Tested(NamedTuple):
    """A method's headline minus the baseline's; the p of randomisation only where each has one run.

    Of too few sentences the interval and all p are NaN.
    """

    headline: str
    method: str
    baseline: str
    found: Comparison
    randomisation: float | None
    holm: float


class Tests:
    """The headlines of all runs, their intervals and comparisons; everything is drawn from one seed."""

    def __init__(
        self,
        methods: Sequence[Method],
        measured: Sequence[Measures],
        headlines: Sequence[Headline],
        resamples: int,
        seed: int,
    ) -> None:
        self.methods, self.headlines, self.resamples, self.seed = methods, headlines, resamples, seed
        self.sums = {head.name: [head.statistics(one) for one in measured] for head in headlines}

    def interval(self, head: Headline, runs: Sequence[int]) -> Interval:
        """Return a headline's mean over runs and its interval over sentences, over runs too where there are several.

        Of too few sentences the interval is NaN.
        """
        sums = self._of(head, runs)
        if not enough(sums):
            return Interval(float(head.measure(sums.sum(axis=1)).mean()), np.nan, np.nan)
        return bootstrap_over_seeds(sums, head.measure, self.resamples, self.seed)

    def values(self, head: Headline, runs: Sequence[int]) -> list[float]:
        """A headline of each run."""
        return [float(head.measure(sums.sum(axis=0))) for sums in self._of(head, runs)]

    def compare(self, head: Headline) -> list[Tested]:
        """Every other method against the first one, with Holm's correction over them."""
        first, others = self.methods[0], self.methods[1:]
        found = [self._test(head, other, first) for other in others]
        corrected = holm([one.p if np.isfinite(one.p) else 1.0 for one, _ in found])
        return [
            Tested(head.name, other.name, first.name, one, randomised, np.nan if np.isnan(one.p) else p)
            for other, (one, randomised), p in zip(others, found, corrected, strict=True)
        ]

    def _test(self, head: Headline, other: Method, first: Method) -> tuple[Comparison, float | None]:
        ours, theirs = self._of(head, other.runs), self._of(head, first.runs)
        if not enough(ours, theirs):
            difference = head.measure(ours.sum(axis=1)).mean() - head.measure(theirs.sum(axis=1)).mean()
            return Comparison(float(difference), np.nan, np.nan, np.nan), None
        if len(ours) > 1 or len(theirs) > 1:
            return hierarchical_bootstrap(ours, theirs, head.measure, self.resamples, self.seed), None
        found = paired_bootstrap(ours[0], theirs[0], head.measure, self.resamples, self.seed)
        return found, approximate_randomisation(ours[0], theirs[0], head.measure, self.resamples, self.seed)

    def _of(self, head: Headline, runs: Sequence[int]) -> Numbers:
        return np.stack([self.sums[head.name][run] for run in runs])


def group(subjects: Sequence[Subject]) -> list[Method]:
    """The methods in the order of their first runs, named after their mitigations; where those tie, folders too."""
    groups: list[list[int]] = []
    for number, subject in enumerate(subjects):
        same = next((runs for runs in groups if same_method(subjects[runs[0]].run, subject.run)), None)
        if same is None:
            groups.append([number])
        else:
            same.append(number)
    names = [_name(subjects[runs[0]]) for runs in groups]
    full = [
        name if names.count(name) == 1 else f"{name} ({subjects[runs[0]].run.folder.name})"
        for name, runs in zip(names, groups, strict=True)
    ]
    return [Method(name, runs) for name, runs in zip(full, groups, strict=True)]


def _name(subject: Subject) -> str:
    kinds = {kind: name for name, kind in MITIGATIONS.items()}
    return " + ".join(kinds[type(method)] for method in subject.run.recipe.mitigations) or "teacher_forcing"
