"""How to search."""

from collections.abc import Sequence
from dataclasses import dataclass

from s2s.errors import UserError
from s2s.search.constraints import Constraint, NoRepeatedNgram, RepetitionPenalty
from s2s.search.lengths import LengthScore, PowerPenalty, TranslationPenalty, WordReward, relative_lengths


@dataclass
class SearchSettings:
    """A recipe's ``search:``; lengths are in tokens."""

    beams: int = 4  # 1: greedy
    n_best: int = 1  # hypotheses of each source, at most beams
    max_length: int | None = None  # null: the longest target of training, data.max_target
    min_length: int = 0  # no end before so many tokens
    length_penalty: float = 0.0  # scores are divided by length ** length_penalty
    translation_alpha: float | None = None  # instead: divided by ((5 + length) / 6) ** translation_alpha
    word_reward: float | None = None  # instead: so much is added for each token
    max_length_ratio: float | None = None  # of the source's tokens, begin and end left out; at most max_length
    no_repeat_ngram: int = 0  # no n-gram of so many tokens twice; 0: any
    repetition_penalty: float = 1.0  # log-probabilities of tokens that were there already are multiplied by it
    batch: int = 32  # sources searched together

    def length_score(self) -> LengthScore:
        """What a hypothesis is worth, given its length."""
        if self.translation_alpha is not None:
            return TranslationPenalty(self.translation_alpha)
        return PowerPenalty(self.length_penalty) if self.word_reward is None else WordReward(self.word_reward)

    def constraints(self) -> list[Constraint]:
        """What a search may not do."""
        found: list[Constraint] = []
        if self.no_repeat_ngram:
            found.append(NoRepeatedNgram(self.no_repeat_ngram))
        if self.repetition_penalty != 1:
            found.append(RepetitionPenalty(self.repetition_penalty))
        return found

    def longest(self, sources: Sequence[int], limit: int) -> list[int]:
        """The most tokens for each source, given the sources' own lengths."""
        if self.max_length_ratio is None:
            return [limit] * len(sources)
        return [max(1, length) for length in relative_lengths(sources, self.max_length_ratio, limit=limit)]

    def __post_init__(self) -> None:
        for name in ("beams", "n_best", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name}: {getattr(self, name)} is not at least 1")
        given = [name for name in ("length_penalty", "translation_alpha", "word_reward") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"search.{given[1]}: search.{given[0]} says already what a length costs")
        for name, least in (("max_length_ratio", 0), ("no_repeat_ngram", 0), ("repetition_penalty", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"search.{name}: {value} is not at least {least}")
        if self.n_best > self.beams:
            raise UserError(f"search.n_best: {self.n_best} is more than search.beams: {self.beams}")
        if self.min_length < 0 or (self.max_length is not None and self.max_length < self.min_length):
            raise UserError(f"search.min_length: {self.min_length} must lie in 0 .. max_length ({self.max_length})")
