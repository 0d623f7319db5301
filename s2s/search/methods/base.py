"""The settings shared by all search methods (beam, sampling, MBR ...), and the request that each of them answers."""

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
    """The first tokens of hypotheses; ``in_word`` is whether the text ends in a word, which must end there.

    None for ``in_word`` means that anything may follow.
    """

    tokens: Sequence[int] = ()
    in_word: bool | None = None


class SearchRequest(NamedTuple):
    """The sources of one search with a value for each, and the means to read its hypotheses."""

    sources: Sequence[Sequence[int]]  # ids, begin and end included
    longest: list[int]
    shortest: list[int]
    prefixes: Sequence[Prefix]
    vocabulary: Vocabulary
    attention: Attention  # of hypotheses, for a coverage penalty
    check: Callable[[], object] = never_interrupt  # called between parts of long work; an exception ends the search


@dataclass
class SearchMethod:
    """The keys of all rows of ``s2s.search.methods.SEARCHES``; lengths are in tokens, without the end."""

    max_length: Size | None = None  # null: the longest target of training, data.max_target
    min_length: CountOrZero = 0  # the end may not come before this number of tokens
    max_length_ratio: Ratio | None = None  # of the source's tokens, begin and end left out; at most max_length
    max_length_offset: Offset = 0  # tokens that are added to max_length_ratio's length
    min_length_ratio: Ratio | None = None  # of the source's tokens; at least min_length
    no_repeat_ngram: CountOrZero = 0  # no n-gram of this number of tokens comes twice; 0: any may
    repetition_penalty: Factor = 1.0  # log-probabilities of tokens that a hypothesis already has are multiplied by it
    # the beginning of every hypothesis whose source gives no other, as whole words; cap* lets the word continue
    prefix: str = ""
    required: list[str] = field(default_factory=list)  # whole words that every hypothesis has; *er* is within words too
    forbidden: list[str] = field(default_factory=list)  # whole words that no hypothesis has; *er* is within words too
    # a file of lines: every hypothesis is one of them, exactly as written
    allowed: PathText | None = field(default=None, metadata=outside("FILE"))
    token_scores: bool = False  # also give the log-probability of each token
    precision: str = "auto"  # fp32, bf16, fp16 or int8 products with weights; auto: the run's on a GPU, fp32 on CPU
    batch: Size = 32  # sources searched together

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source, best first."""
        raise NotImplementedError  # each row of SEARCHES has its own

    def width(self) -> int:
        """Return the number of hypotheses that the search keeps of a source; its time and memory grow with it."""
        raise NotImplementedError  # each row of SEARCHES has its own

    def stream(self, scorer: Scorer[Any], request: SearchRequest) -> Iterator[StreamedToken]:  # noqa: ARG002
        """Return the tokens of the hypothesis one by one; raise a UserError where a later token may change them."""
        raise UserError("stream: only greedy decoding (beams=1) and one sample (name=sample) come token by token")

    def longest(self, sources: Sequence[int], limit: int) -> list[int]:
        """Return the greatest number of tokens for each source length."""
        if self.max_length_ratio is None:
            return [limit] * len(sources)
        lengths = relative_lengths(sources, self.max_length_ratio, self.max_length_offset, limit)
        return [max(1, length) for length in lengths]

    def shortest(self, sources: Sequence[int], longest: Sequence[int]) -> list[int]:
        """Return the least number of tokens for each source length, at most the greatest."""
        relative = relative_lengths(sources, self.min_length_ratio or 0.0)
        return [min(limit, max(self.min_length, length)) for length, limit in zip(relative, longest, strict=True)]

    def names_outside(self) -> dict[str, str]:
        """Return key and value of each setting that names code or a file, such as ``utility: module:function``."""
        return names_outside(self)

    def __post_init__(self) -> None:
        settle(self, "search.")
        if self.precision not in DECODING:
            raise UserError(f"search.precision: no '{self.precision}'{nearest(self.precision, DECODING)}")
        if self.max_length is not None and self.max_length < self.min_length:
            raise UserError(f"search.min_length: {self.min_length} is not in 0 .. max_length ({self.max_length})")
        if self.allowed is not None and self.max_length_ratio is not None:
            raise UserError("search.max_length_ratio: with search.allowed an output could be cut short; use max_length")
        if self.max_length_offset and self.max_length_ratio is None:
            raise UserError("search.max_length_offset: it is added to max_length_ratio, which is not given")


def not_ending_early(scorer: Scorer[Any], shortest: list[int]) -> Scorer[Any]:
    """Return the scorer under a minimum length, for searches without such a setting."""
    return ConstrainedScorer(scorer, [MinimumLength(shortest, scorer.end)]) if any(shortest) else scorer
