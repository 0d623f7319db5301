"""Settings of minimum Bayes risk: rows of ``s2s.search.methods.SEARCHES``."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from s2s.config.outside_names import outside
from s2s.config.ranges import Few
from s2s.errors import UserError
from s2s.metrics.sentence import METRICS, Metric, check_metric, sentence_metric
from s2s.search.hypotheses import Hypothesis
from s2s.search.mbr import Decision, aggregate_bayes_risk, minimum_bayes_risk
from s2s.search.methods.base import SearchMethod, SearchRequest
from s2s.search.methods.beam import SearchSettings
from s2s.search.methods.sampling import SampleSettings
from s2s.search.scorer import Scorer
from s2s.search.streaming import StreamedToken

Decide = Callable[[list[str], list[float]], Decision]


@dataclass
class RiskSettings(SampleSettings):
    """``mbr``: of the samples that whose text is most like the others; scores are expected utilities, in [0, 1]."""

    samples: Few = 32  # of each source
    n_best: Few | None = 1  # so many different ones, by their expected utility; null: all
    # a row of s2s.metrics.sentence.METRICS, or module:function of (hypothesis, reference)
    utility: str = field(default="chrf", metadata=outside("module:function", METRICS))
    aggregate: bool = False  # chrF against all samples' n-grams at once: a time linear in their number

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The different samples, best first; each counts as often as it was drawn."""
        decide = decision(self.utility, self.aggregate, job.check)
        found = self.draw(scorer, job)
        return [ranked(rows, [1.0] * len(rows), decide, job)[: self.n_best] for rows in found]

    def stream(self, scorer: Scorer[Any], job: SearchRequest) -> Iterator[StreamedToken]:
        """Nothing: what is best is known at the end."""
        return SearchMethod.stream(self, scorer, job)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_utility(self.utility, self.aggregate)


@dataclass
class BeamRiskSettings(SearchSettings):
    """``mbr_beam``: the same over all hypotheses of a beam, which count by their probability (e to their score)."""

    beams: Few = 16  # the candidates
    utility: str = field(default="chrf", metadata=outside("module:function", METRICS))  # as for mbr
    aggregate: bool = False  # as for mbr

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The beam's hypotheses, by their expected utility."""
        decide = decision(self.utility, self.aggregate, job.check)
        found = SearchSettings.find(replace(self, n_best=self.beams), scorer, job)
        weighted = [(rows, probabilities([score for _, score in rows])) for rows in found]
        return [ranked(rows, weights, decide, job)[: self.n_best] for rows, weights in weighted]

    def stream(self, scorer: Scorer[Any], job: SearchRequest) -> Iterator[StreamedToken]:
        """Nothing: what is best is known at the end."""
        return SearchMethod.stream(self, scorer, job)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_utility(self.utility, self.aggregate)


def check_utility(utility: str, aggregate: bool) -> None:
    """A ``UserError`` for a metric that is none, or has no aggregate form."""
    try:
        check_metric(utility)
    except UserError as error:
        raise UserError(f"search.utility: {error}") from error
    if aggregate and utility != "chrf":
        raise UserError(f"search.aggregate: only chrf can be taken against all candidates at once, not '{utility}'")


def decision(utility: str, aggregate: bool, check: Callable[[], object]) -> Decide:
    """Return the function that decides among texts of given weights; it calls ``check`` before each pair of texts."""
    if aggregate:
        return aggregate_bayes_risk
    metric: Metric = sentence_metric(utility)

    def checked(hypothesis: str, reference: str) -> float:
        check()
        return metric(hypothesis, reference)

    return lambda texts, weights: minimum_bayes_risk(texts, checked, weights)


def probabilities(scores: Sequence[float]) -> list[float]:
    """Numbers in proportion to the exponentials of the scores, 1 for the greatest."""
    return [math.exp(score - max(scores)) for score in scores]


def ranked(rows: list[Hypothesis], weights: list[float], decide: Decide, job: SearchRequest) -> list[Hypothesis]:
    """The different hypotheses with their expected utilities, best first."""
    if not rows:
        return []
    _, utilities = decide([job.vocabulary.decode(tokens) for tokens, _ in rows], weights)
    worth = {tuple(tokens): utility for (tokens, _), utility in zip(rows, utilities, strict=True)}
    return sorted(((list(tokens), utility) for tokens, utility in worth.items()), key=lambda found: -found[1])
