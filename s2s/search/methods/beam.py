"""Settings of searches with beams: rows of ``s2s.search.methods.SEARCHES``."""

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
from s2s.search.rescoring import best_first, covered
from s2s.search.scorer import Scorer
from s2s.search.shrinking import shrinking_beam_search
from s2s.search.streaming import StreamedToken, likeliest, stream


@dataclass
class LengthScored(SearchMethod):
    """The keys of searches whose scores depend on the length."""

    length_penalty: Exponent = 0.0  # scores are divided by length ** length_penalty
    translation_alpha: Exponent | None = None  # instead: divided by ((5 + length) / 6) ** translation_alpha
    word_reward: Number | None = None  # instead: this is added for each token

    def length_score(self) -> LengthScore:
        """Return the score of a hypothesis as a function of its sum and its length."""
        if self.translation_alpha:  # 0 is no penalty, as in the check below
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
    # when the search of a source stops: a row of s2s.search.length_scores.STOPS; all but safe and never are heuristics
    stop: str = "safe"

    # The beam's best hypotheses are ranked again with this multiple of the log of each source token's attention (of the
    # last layer, the mean of its heads) added to their scores.
    coverage_penalty: Strength = 0.0

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        # All finished hypotheses are needed where a coverage penalty may move a later one to the front.
        count = self.beams if self.coverage_penalty else self.n_best
        hypotheses = beam_search(
            scorer, self.beams, request.longest, count, self.length_score(), request.shortest, STOPS[self.stop]
        )
        if not self.coverage_penalty:
            return hypotheses
        return [rows[: self.n_best] for rows in covered(hypotheses, request.attention, self.coverage_penalty)]

    def width(self) -> int:
        return self.beams

    def stream(self, scorer: Scorer[Any], request: SearchRequest) -> Iterator[StreamedToken]:
        if self.beams > 1:
            return super().stream(scorer, request)
        return stream(not_ending_early(scorer, request.shortest), request.longest, likeliest)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best > self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than search.beams: {self.beams}")
        if self.stop not in STOPS:
            raise UserError(f"search.stop: no '{self.stop}'{nearest(self.stop, STOPS)}")


@dataclass
class DiverseSettings(LengthScored):
    """``diverse``: groups of beams, each of which avoids the tokens that earlier groups took."""

    groups: Few = 4  # searched one after another
    beams: Few = 1  # of each group
    strength: Strength = 0.5  # nats that a token loses for each earlier group that took it at the same step
    n_best: Few | None = None  # different hypotheses, each group's best before any group's second; null: groups

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        by_group = diverse_beam_search(
            scorer,
            self.groups,
            self.beams,
            request.longest,
            self.strength,
            self.beams,
            self.length_score(),
            request.shortest,
        )
        return [interleaved(groups, self.n_best or self.groups) for groups in by_group]

    def width(self) -> int:
        return self.groups * self.beams

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best is not None and self.n_best > self.groups * self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than groups * beams = {self.groups * self.beams}")


@dataclass
class ShrinkingSettings(SearchMethod):
    """``shrinking``: the search of Su's article, whose beams shrink, for comparison; it has one hypothesis."""

    beams: Few = 4  # at the start; 1: greedy

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        return shrinking_beam_search(scorer, self.beams, request.longest, request.vocabulary.never_written)

    def width(self) -> int:
        return self.beams

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_length", "min_length_ratio", "no_repeat_ngram", "prefix", "required", "forbidden", "allowed"):
            if getattr(self, name):
                raise UserError(f"search.{name}: this search adds 1e-12 to every probability, so it can forbid nothing")


def interleaved(groups: list[list[Hypothesis]], count: int) -> list[Hypothesis]:
    """Return ``count`` different hypotheses, best first: the best of each group, then the second of each group ..."""
    chosen: dict[tuple[int, ...], Hypothesis] = {}
    for rank in zip_longest(*groups):
        for hypothesis in rank:
            if hypothesis is not None and len(chosen) < count:
                chosen.setdefault(tuple(hypothesis[0]), hypothesis)
    return best_first(chosen.values())
