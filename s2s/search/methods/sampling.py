"""Settings of sampling: a row of ``s2s.search.methods.SEARCHES``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from s2s.config.ranges import Count, Few, Positive, Seed, ShareAboveZero
from s2s.errors import UserError
from s2s.randomness import seed_of
from s2s.search.hypotheses import Hypothesis, NotANumberError
from s2s.search.methods.base import SearchMethod, SearchRequest, not_ending_early
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
    """``sample``: independent samples; what is drawn is a function of seed, source, sample and position alone.

    Equal sources thus get equal samples, in any batch, order and number of processes. The filters cut off unlikely
    tokens in the order in which they stand here, each after the probabilities that are left sum to 1.
    """

    samples: Few = 1  # of each source
    n_best: Few | None = None  # so many of them, by their log-probability; null: all
    temperature: Positive = 1.0  # log-probabilities are divided by it; below 1 likely tokens become likelier
    top_k: Count | None = None  # only so many tokens, the likeliest
    top_p: ShareAboveZero | None = None  # only the fewest likeliest tokens that have this mass together
    min_p: ShareAboveZero | None = None  # only tokens of at least this share of the likeliest one's probability
    typical: ShareAboveZero | None = None  # only the fewest tokens of surprise nearest the entropy that have this mass
    epsilon: ShareAboveZero | None = None  # only tokens of at least this probability
    eta: ShareAboveZero | None = None  # the same, but less where the entropy is high
    seed: Seed = 0  # of what is drawn, with the source itself

    def find(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The samples, likeliest first."""
        ranked = (sorted(rows, key=lambda hypothesis: -hypothesis[1]) for rows in self.draw(scorer, job))
        return [rows[: self.n_best] for rows in ranked]

    def width(self) -> int:
        """Return the samples."""
        return self.samples

    def stream(self, scorer: Scorer[Any], job: SearchRequest) -> Iterator[StreamedToken]:
        """The tokens of the one sample."""
        if self.samples > 1:
            return super().stream(scorer, job)
        scorer = not_ending_early(scorer, job.shortest)
        return sample_stream(scorer, job.longest, self.seeds(job), self.temperature, self.filters())

    def draw(self, scorer: Scorer[Any], job: SearchRequest) -> list[list[Hypothesis]]:
        """The samples in the order of their numbers."""
        scorer = not_ending_early(scorer, job.shortest)
        try:
            found = sample_search(scorer, self.samples, job.longest, self.seeds(job), self.temperature, self.filters())
        except NotANumberError:
            raise
        except ValueError as error:
            raise UserError(f"search: {error}") from error
        return [[(sample.tokens, sample.score) for sample in rows] for rows in found]

    def seeds(self, job: SearchRequest) -> list[int]:
        """A seed a source, of what it says."""
        return [seed_of(self.seed, "sample", *source) for source in job.sources]

    def filters(self) -> list[Filter]:
        """What cuts off unlikely tokens."""
        given = {name: getattr(self, name) for name in FILTERS}
        return [FILTERS[name](value) for name, value in given.items() if value is not None]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_best is not None and self.n_best > self.samples:
            raise UserError(f"search.n_best: {self.n_best} is more than search.samples: {self.samples}")
