"""Settings of minimum Bayes risk: rows of ``s2s.search.methods.SEARCHES``."""

import math
from collections.abc import Callable, Iterator
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
from s2s.search.rescoring import best_first
from s2s.search.scorer import Scorer
from s2s.search.streaming import StreamedToken

Decide = Callable[[list[str], list[float]], Decision]


@dataclass
class Utility(SearchMethod):
    """The keys of searches that choose by expected utility."""

    # a row of s2s.metrics.sentence.METRICS, or module:function of (hypothesis, reference)
    utility: str = field(default="chrf", metadata=outside("module:function", METRICS))
    aggregate: bool = False  # chrF against the average n-grams of all candidates, in time linear in their number

    def stream(self, scorer: Scorer[Any], request: SearchRequest) -> Iterator[StreamedToken]:
        """Raise a UserError: the best hypothesis is only known at the end."""
        return SearchMethod.stream(self, scorer, request)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            check_metric(self.utility)
        except UserError as error:
            raise UserError(f"search.utility: {error}") from error
        if self.aggregate and self.utility != "chrf":
            raise UserError(
                f"search.aggregate: only chrf can be taken against all candidates at once, not '{self.utility}'"
            )


@dataclass
class RiskSettings(Utility, SampleSettings):
    """``mbr``: the sample whose text is most similar to the others; scores are expected utilities, in [0, 1]."""

    samples: Few = 32  # of each source
    n_best: Few | None = 1  # different hypotheses with the greatest expected utilities; null: all

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        """Return the different samples, best first; each is weighted by the number of times that it was drawn."""
        decide = decision(self.utility, self.aggregate, request.check)
        samples = self.draw(scorer, request)
        return [ranked(rows, [1.0] * len(rows), decide, request)[: self.n_best] for rows in samples]


@dataclass
class BeamRiskSettings(Utility, SearchSettings):
    """``mbr_beam``: the same with all hypotheses of a beam, weighted by their probabilities (e to their scores)."""

    beams: Few = 16  # the candidates

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        """Return the beam's hypotheses by their expected utilities, the greatest first."""
        decide = decision(self.utility, self.aggregate, request.check)
        hypotheses = SearchSettings.find(replace(self, n_best=self.beams), scorer, request)
        # Weights are relative to the best hypothesis, so that those of long ones do not all become 0.
        weights = [[math.exp(score - rows[0][1]) for _, score in rows] for rows in hypotheses]
        return [ranked(*pair, decide, request)[: self.n_best] for pair in zip(hypotheses, weights, strict=True)]


def decision(utility: str, aggregate: bool, check: Callable[[], object]) -> Decide:
    """Return a function that chooses among weighted texts; it calls ``check`` before each pair of texts."""
    if aggregate:
        return aggregate_bayes_risk
    metric: Metric = sentence_metric(utility)

    def checked(hypothesis: str, reference: str) -> float:
        check()
        return metric(hypothesis, reference)

    return lambda texts, weights: minimum_bayes_risk(texts, checked, weights)


def ranked(rows: list[Hypothesis], weights: list[float], decide: Decide, request: SearchRequest) -> list[Hypothesis]:
    """Return the different hypotheses with their expected utilities, best first."""
    if not rows:
        return []
    _, utilities = decide([request.vocabulary.decode(tokens) for tokens, _ in rows], weights)
    worth = {tuple(tokens): utility for (tokens, _), utility in zip(rows, utilities, strict=True)}
    return best_first((list(tokens), utility) for tokens, utility in worth.items())
