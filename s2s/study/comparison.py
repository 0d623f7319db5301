"""The differences that a study finds, from its small results alone: declared ones with p, all others without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from s2s.metrics.bootstrap import Numbers
from s2s.metrics.table import Better
from s2s.study.results import Result, Table
from s2s.study.settings import Plan
from s2s.study.statistics import (
    Difference,
    Hypothesis,
    Kind,
    Replicates,
    family,
    replicate,
    resample,
    subtract,
)


class Row(NamedTuple):
    """One difference, a variant minus its baseline in an endpoint; declared ones have what was declared."""

    endpoint: str
    variant: str
    baseline: str
    difference: Difference
    declared: dict[str, Any] | None = None
    p: float | None = None  # of the declared test
    adjusted: float | None = None  # after Holm, within the family


@dataclass
class Comparisons:
    """All results of a study by variant, and the replicates of each variant's endpoints, which are drawn once."""

    plan: Plan
    results: Sequence[Result]
    _counts: dict[int, NDArray[np.uint16]] = field(default_factory=dict)
    _replicates: dict[tuple[str, str], Replicates] = field(default_factory=dict)

    @cached_property
    def variants(self) -> dict[str, list[Result]]:
        """The results by variant, in the order of the study and of its seeds; variants without any are left out."""
        by_name: dict[str, list[Result]] = {name: [] for name in self.plan.variants}
        for result in sorted(self.results, key=lambda result: result.seed):
            by_name[result.variant].append(result)
        return {name: rows for name, rows in by_name.items() if rows}

    @cached_property
    def endpoints(self) -> dict[str, Table]:
        """The endpoints that some variant has, each with a table that tells how it is read."""
        tables: dict[str, Table] = {}
        for variant, rows in self.variants.items():
            for name, table in rows[0].tables.items():
                if self.has(variant, name):
                    tables.setdefault(name, table)
        return tables

    def has(self, variant: str, endpoint: str) -> bool:
        """Return whether all results of a variant have an endpoint, with sums of the same number of sentences."""
        tables = [result.tables.get(endpoint) for result in self.variants.get(variant, [])]
        return bool(tables) and None not in tables and len({table.rows.shape for table in tables if table}) == 1

    @cached_property
    def uneven(self) -> list[str]:
        """Lines on endpoints that are left out because the runs of a variant were not measured alike."""
        lines: dict[str, list[str]] = {}
        for variant, rows in self.variants.items():
            for endpoint in {name: None for result in rows for name in result.tables}:
                if not self.has(variant, endpoint):
                    lines.setdefault(variant, []).append(endpoint)
        return [
            f"the runs of {variant} were not measured alike, so it has no {', '.join(endpoints)}"
            for variant, endpoints in lines.items()
        ]

    def replicates(self, variant: str, endpoint: str) -> Replicates:
        """Return a variant's values of an endpoint over its seeds, as they are and resampled."""
        key = variant, endpoint
        if key not in self._replicates:
            rows: Numbers = np.stack([result.tables[endpoint].rows for result in self.variants[variant]])
            if rows.shape[1] not in self._counts:
                self._counts[rows.shape[1]] = resample(rows.shape[1], self.plan.settings.resamples)
            measure = self.variants[variant][0].tables[endpoint].measure(endpoint)
            # Kept, as a variant is in many differences, and resampling it is what takes the time.
            self._replicates[key] = replicate(rows, measure, self._counts[rows.shape[1]])
        return self._replicates[key]

    def difference(self, endpoint: str, variant: str, baseline: str) -> Difference:
        """Return a variant's value of an endpoint minus the baseline's; of other sentences, without an error and p."""
        sides = self.replicates(variant, endpoint), self.replicates(baseline, endpoint)
        results = [*self.variants[variant], *self.variants[baseline]]
        if len({(result.tested, len(result.tables[endpoint].rows)) for result in results}) > 1:
            # Sentences are drawn jointly for both sides, which means nothing where they are different ones.
            means = [float(side.observed.mean()) for side in sides]
            seeds = len(sides[0].observed), len(sides[1].observed)
            return _NOTHING._replace(estimate=means[0] - means[1], seeds=seeds)
        difference = subtract(*sides)
        return difference._replace(p=None) if self.plan.settings.exploratory else difference

    @cached_property
    def declared(self) -> list[Row]:
        """The tests of the hypotheses, with Holm's correction within each family, without those that lack results."""
        rows: list[Row] = []
        families: dict[str, list[dict[str, Any]]] = {}
        for values in self.plan.hypotheses():
            families.setdefault(values["family"], []).append(values)
        for members in families.values():
            tested = [values for values in members if not self._lacking(values)]
            hypotheses = [self._hypothesis(values) for values in tested]
            # A hypothesis that cannot be tested yet still counts for the correction: it was declared.
            missing = [Hypothesis("missing", _NOTHING)] * (len(members) - len(tested))
            verdicts = family([*hypotheses, *missing])
            for values, hypothesis, verdict in zip(tested, hypotheses, verdicts, strict=False):
                names = values["endpoint"], values["variant"], values["baseline"]
                rows.append(Row(*names, hypothesis.difference, values, verdict.p, verdict.adjusted))
        return rows

    def _lacking(self, values: Mapping[str, Any]) -> list[str]:
        """Return the variants of a hypothesis that do not have its endpoint."""
        return [name for name in (values["variant"], values["baseline"]) if not self.has(name, values["endpoint"])]

    @cached_property
    def untested(self) -> list[str]:
        """Lines on the declared hypotheses that cannot be tested yet, and why."""
        lines = []
        for values in self.plan.hypotheses():
            lacking = self._lacking(values)
            reasons = [f"no results of {name}" for name in lacking if name not in self.variants]
            reasons += [f"results of {name} without it" for name in lacking if name in self.variants]
            if reasons:
                name = f"{values['endpoint']}, {values['variant']} - {values['baseline']}"
                lines.append(f"declared, but not tested: {name}: {' and '.join(reasons)}")
        return lines

    def _hypothesis(self, values: Mapping[str, Any]) -> Hypothesis:
        endpoint, kind = values["endpoint"], cast(Kind, values["name"])
        difference = self.difference(endpoint, values["variant"], values["baseline"])
        better = cast(Better, self.endpoints[endpoint].better)
        return Hypothesis(endpoint, difference, kind, values["margin"] or 0.0, better)

    def rows(self, endpoint: str) -> list[Row]:
        """Return the declared differences in an endpoint, then the others."""
        return [*(row for row in self.declared if row.endpoint == endpoint), *self.others(endpoint)]

    def others(self, endpoint: str) -> list[Row]:
        """Return the differences of variants from the first one that were not declared in an endpoint."""
        baseline = self.plan.baseline
        if not self.has(baseline, endpoint):
            return []
        declared = {(row.endpoint, row.variant, row.baseline) for row in self.declared}
        return [
            Row(endpoint, name, baseline, self.difference(endpoint, name, baseline))
            for name in self.variants
            if name != baseline and (endpoint, name, baseline) not in declared and self.has(name, endpoint)
        ]

    def values(self, variant: str, endpoint: str) -> list[float]:
        """Return the value of each seed; nothing where the variant does not have the endpoint."""
        if not self.has(variant, endpoint):
            return []
        return [float(value) for value in self.replicates(variant, endpoint).observed]

    def converged(self, variant: str) -> bool:
        """Return whether all runs of a variant have converged."""
        return all(result.converged for result in self.variants[variant])

    def cost(self, variant: str) -> dict[str, float]:
        """Return the means over a variant's runs of what all of them know of their cost."""
        costs = [result.cost for result in self.variants[variant]]
        known = [key for key in costs[0] if all(key in cost for cost in costs)]
        return {key: fmean(cost[key] for cost in costs) for key in known}


_NOTHING = Difference(float("nan"), None, None, None, None, None, None, (0, 0), 0)


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation over seeds, None for one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
