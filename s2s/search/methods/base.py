"""What every way of searching has in a recipe's ``search:``, and what it is asked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from s2s.config.outside_names import names_outside, outside
from s2s.config.ranges import CountOrZero, Factor, Offset, PathText, Ratio, Size, settle
from s2s.errors import UserError, nearest
from s2s.machine.precision import DECODING
from s2s.search.constraints import ConstrainedScorer, MinimumLength
from s2s.search.hypotheses import Hypothesis
from s2s.search.length_scores import relative_lengths
from s2s.search.rescoring import Attention
from s2s.search.scorer import Scorer
from s2s.search.streaming import StreamedToken
from s2s.vocabulary import Vocabulary


def never_interrupt() -> None:
    """Do nothing, so that a search runs to its end."""


class Prefix(NamedTuple):
    """The tokens with which hypotheses begin; ``in_word``: whether the text ends in a word that may not go on.

    None for ``in_word`` where anything may follow.
    """

    tokens: Sequence[int] = ()
    in_word: bool | None = None


class SearchRequest(NamedTuple):
    """The sources of one search, a value each, and how to read what is found."""

    sources: Sequence[Sequence[int]]  # ids, begin and end included
    longest: list[int]
    shortest: list[int]
    prefixes: Sequence[Prefix]  # with which their hypotheses begin
    vocabulary: Vocabulary
    attention: Attention  # of what is found, for a coverage penalty
    check: Callable[[], object] = never_interrupt  # called between the parts of long work; it raises to end the search


@dataclass
class SearchMethod:
    """The keys that all rows of ``s2s.search.methods.SEARCHES`` have; lengths are in tokens, without the end."""

    max_length: Size | None = None  # null: the longest target of training, data.max_target
    min_length: CountOrZero = 0  # no end before so many tokens
    max_length_ratio: Ratio | None = None  # of the source's tokens, begin and end left out; at most max_length
    max_length_offset: Offset = 0  # so many tokens more than max_length_ratio says
    min_length_ratio: Ratio | None = None  # of the source's tokens; at least min_length
    no_repeat_ngram: CountOrZero = 0  # no n-gram of so many tokens twice; 0: any
    repetition_penalty: Factor = 1.0  # log-probabilities of tokens that were there already are multiplied by it
    # with which every hypothesis begins, unless its source has one of its own; whole words: of cap* the word may go on
    prefix: str = ""
    required: list[str] = field(default_factory=list)  # whole words that come in every hypothesis; *er*: within words
    forbidden: list[str] = field(default_factory=list)  # whole words that come in none; *er*: within words too
    # a file of lines: every hypothesis is one of them, as it stands there
    allowed: PathText | None = field(default=None, metadata=outside("FILE"))
    token_scores: bool = False  # tell the log-probability of each token of what is found
    precision: str = "auto"  # fp32, bf16, fp16 or int8 products with weights; auto: the run's on a GPU, fp32 on CPU
    batch: Size = 32  # sources searched together

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first."""
        raise NotImplementedError

    def width(self) -> int:
        """Return how many hypotheses of a source the search keeps, on which its time and memory depend."""
        raise NotImplementedError

    def stream(self, scorer: Scorer[Any], job: SearchRequest) -> Iterator[StreamedToken]:  # noqa: ARG002
        """The tokens of what is found as they come; a ``UserError`` for searches that look back."""
        raise UserError("stream: only greedy decoding (beams=1) and one sample (name=sample) come token by token")

    def longest(self, sources: Sequence[int], limit: int) -> list[int]:
        """The most tokens for each source, given the sources' own lengths."""
        if self.max_length_ratio is None:
            return [limit] * len(sources)
        lengths = relative_lengths(sources, self.max_length_ratio, self.max_length_offset, limit)
        return [max(1, length) for length in lengths]

    def shortest(self, sources: Sequence[int], longest: Sequence[int]) -> list[int]:
        """The fewest tokens for each source; where that is more than the most, the most."""
        relative = relative_lengths(sources, self.min_length_ratio or 0.0)
        return [min(limit, max(self.min_length, own)) for own, limit in zip(relative, longest, strict=True)]

    def names_outside(self) -> dict[str, str]:
        """Return key and value of each setting that names code or a file, such as ``utility: module:function``."""
        return names_outside(self)

    def __post_init__(self) -> None:
        settle(self, "search.")
        if self.precision not in DECODING:
            raise UserError(f"search.precision: no '{self.precision}'{nearest(self.precision, DECODING)}")
        if self.max_length is not None and self.max_length < self.min_length:
            raise UserError(f"search.min_length: {self.min_length} must lie in 0 .. max_length ({self.max_length})")
        if self.allowed is not None and self.max_length_ratio is not None:
            raise UserError("search.max_length_ratio: with search.allowed an output could be cut short; use max_length")
        if self.max_length_offset and self.max_length_ratio is None:
            raise UserError("search.max_length_offset: it is added to max_length_ratio, which is not given")


def not_ending_early(scorer: Scorer[Any], shortest: list[int]) -> Scorer[Any]:
    """The scorer under a minimum length, for searches that have no such setting."""
    return ConstrainedScorer(scorer, [MinimumLength(shortest, scorer.end)]) if any(shortest) else scorer
