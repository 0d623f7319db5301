"""Settings of sampling: a row of ``s2s.search.methods.SEARCHES``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from s2s.config.ranges import Count, Few, Positive, Seed, ShareAboveZero
from s2s.errors import UserError
from s2s.randomness import seed_of
from s2s.search.hypotheses import Hypothesis, NotANumberError
from s2s.search.methods.base import SearchMethod, SearchRequest, not_ending_early
from s2s.search.rescoring import best_first
from s2s.search.sampling import sample_search
from s2s.search.scorer import Scorer
from s2s.search.streaming import StreamedToken, sample_stream
from s2s.search.truncation import Epsilon, Eta, Filter, MinP, TopK, TopP, Typical

FILTERS: dict[str, Callable[[Any], Filter]] = {
    "top_k": TopK,
    "top_p": TopP,
    "min_p": MinP,
    "typical": Typical,
    "epsilon": Epsilon,
    "eta": Eta,
}


@dataclass
class SampleSettings(SearchMethod):
    """``sample``: independent samples; a token depends on seed, source, sample and position only.

    Equal sources thus get equal samples, in any batch, order and number of processes. The filters cut off unlikely
    tokens in the order of their keys; the remaining probabilities are normalised after each of them.
    """

    samples: Few = 1  # of each source
    n_best: Few | None = None  # samples with the greatest log-probabilities; null: all
    temperature: Positive = 1.0  # log-probabilities are divided by it; below 1 likely tokens become likelier
    top_k: Count | None = None  # only this number of tokens, the likeliest
    top_p: ShareAboveZero | None = None  # only the fewest likeliest tokens that have this mass together
    min_p: ShareAboveZero | None = None  # only tokens of at least this share of the likeliest one's probability
    typical: ShareAboveZero | None = None  # only the fewest tokens of surprise nearest the entropy that have this mass
    epsilon: ShareAboveZero | None = None  # only tokens of at least this probability
    eta: ShareAboveZero | None = None  # the same, but less where the entropy is high
    seed: Seed = 0  # of the random numbers, together with the source

    def find(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        """Return the samples, likeliest first."""
        return [best_first(rows)[: self.n_best] for rows in self.draw(scorer, request)]

    def width(self) -> int:
        return self.samples

    def stream(self, scorer: Scorer[Any], request: SearchRequest) -> Iterator[StreamedToken]:
        if self.samples > 1:
            return super().stream(scorer, request)
        scorer = not_ending_early(scorer, request.shortest)
        return sample_stream(scorer, request.longest, self.seeds(request), self.temperature, self.filters())

    def draw(self, scorer: Scorer[Any], request: SearchRequest) -> list[list[Hypothesis]]:
        """Return the samples in the order of their numbers."""
        scorer = not_ending_early(scorer, request.shortest)
        try:
            results = sample_search(
                scorer, self.samples, request.longest, self.seeds(request), self.temperature, self.filters()
            )
        # It is a ValueError too, but no fault of the settings; ``refuse_nan`` turns it into an error about the weights.
        except NotANumberError:
            raise
        except ValueError as error:
            raise UserError(f"search: {error}") from error
        return [[(sample.tokens, sample.score) for sample in rows] for rows in results]

    def seeds(self, request: SearchRequest) -> list[int]:
        """Return a seed for each source, computed from its tokens."""
        return [seed_of(self.seed, "sample", *source) for source in request.sources]

    def filters(self) -> list[Filter]:
        given = {name: getattr(self, name) for name in FILTERS}
        return [FILTERS[name](value) for name, value in given.items() if value is not None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best is not None and self.n_best > self.samples:
            raise UserError(f"search.n_best: {self.n_best} is more than search.samples: {self.samples}")
