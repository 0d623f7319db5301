"""Settings of the searches with beams: rows of ``s2s.search.methods.SEARCHES``."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from s2s.config.ranges import Exponent, Few, Number, Strength
from s2s.errors import UserError, nearest
from s2s.search.beam import beam_search
from s2s.search.diverse import diverse_beam_search
from s2s.search.hypotheses import Hypothesis
from s2s.search.length_scores import STOPS, LengthScore, PowerPenalty, TranslationPenalty, WordReward
from s2s.search.methods.base import SearchMethod, SearchRequest, not_ending_early
from s2s.search.rescoring import covered
from s2s.search.scorer import Scorer
from s2s.search.shrinking import shrinking_beam_search
from s2s.search.streaming import StreamedToken, likeliest, stream


@dataclass
class LengthScored(SearchMethod):
    """The keys of searches that weigh sums of log-probabilities by length."""

    length_penalty: Exponent = 0.0  # scores are divided by length ** length_penalty
    translation_alpha: Exponent | None = None  # instead: divided by ((5 + length) / 6) ** translation_alpha
    word_reward: Number | None = None  # instead: so much is added for each token

    def length_score(self) -> LengthScore:
        """What a hypothesis is worth, given its length."""
        if self.translation_alpha:  # 0 is none, as in the check that one alone is given
            return TranslationPenalty(self.translation_alpha)
        return WordReward(self.word_reward) if self.word_reward else PowerPenalty(self.length_penalty)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("length_penalty", "translation_alpha", "word_reward") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"search.{given[1]}: search.{given[0]} says already what a length costs")


@dataclass
class SearchSettings(LengthScored):
    """``beam``: beam search; with one beam greedy decoding."""

    beams: Few = 4  # 1: greedy
    n_best: Few = 1  # hypotheses of each source, at most beams
    # when a source is left: a row of s2s.search.length_scores.STOPS; all but safe and never may miss some
    stop: str = "safe"

    # Scores of the beam's best hypotheses, as many as beams, get so many times the log of how much of each source token
    # was attended to, by the last layer's mean head; they are ranked anew.
    coverage_penalty: Strength = 0.0

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The best hypotheses that the beam met."""
        count = self.beams if self.coverage_penalty else self.n_best
        found = beam_search(scorer, self.beams, job.longest, count, self.length_score(), job.shortest, STOPS[self.stop])
        if not self.coverage_penalty:
            return found
        return [rows[: self.n_best] for rows in covered(found, job.attention, self.coverage_penalty)]

    def width(self) -> int:
        """Return the beams."""
        return self.beams

    def stream(self, scorer: Scorer[Any], job: SearchRequest) -> Iterator[StreamedToken]:
        """What one beam finds."""
        if self.beams > 1:
            return super().stream(scorer, job)
        return stream(not_ending_early(scorer, job.shortest), job.longest, likeliest)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best > self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than search.beams: {self.beams}")
        if self.stop not in STOPS:
            raise UserError(f"search.stop: no '{self.stop}'{nearest(self.stop, STOPS)}")


@dataclass
class DiverseSettings(LengthScored):
    """``diverse``: groups of beams, each of which avoids the tokens that the groups before it took."""

    groups: Few = 4  # searched one after another
    beams: Few = 1  # of each group
    strength: Strength = 0.5  # nats that a token loses for each time that a group before took it at the same step
    n_best: Few | None = None  # of different ones, each group's best before any group's second; null: one a group

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The groups' hypotheses."""
        found = diverse_beam_search(
            scorer, self.groups, self.beams, job.longest, self.strength, self.beams, self.length_score(), job.shortest
        )
        return [interleaved(groups, self.n_best or self.groups) for groups in found]

    def width(self) -> int:
        """Return the beams of all groups."""
        return self.groups * self.beams

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best is not None and self.n_best > self.groups * self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than groups * beams = {self.groups * self.beams}")


@dataclass
class ShrinkingSettings(SearchMethod):
    """``shrinking``: the compat search of Su's article, whose beams shrink; its one hypothesis."""

    beams: Few = 4  # at the start; 1: greedy

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """What the search ends with."""
        return shrinking_beam_search(scorer, self.beams, job.longest, job.vocabulary.never_written)

    def width(self) -> int:
        """Return the beams of the start."""
        return self.beams

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_length", "min_length_ratio", "no_repeat_ngram", "prefix", "required", "forbidden", "allowed"):
            if getattr(self, name):
                raise UserError(f"search.{name}: this search adds 1e-12 to every probability, so it can forbid nothing")


def interleaved(groups: list[list[Hypothesis]], count: int) -> list[Hypothesis]:
    """The first different ones of each group's best, each group's second ..., best first."""
    chosen: dict[tuple[int, ...], Hypothesis] = {}
    for rank in zip_longest(*groups):
        for hypothesis in rank:
            if hypothesis is not None and len(chosen) < count:
                chosen.setdefault(tuple(hypothesis[0]), hypothesis)
    return sorted(chosen.values(), key=lambda hypothesis: -hypothesis[1])
