"""Search over many sources: batches of like length, results in the order of the sources."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s.batch import pad
from s2s.config.outside_names import refuse_foreign
from s2s.errors import UserError
from s2s.inference.model_scorer import PrefixScorer, select_rows
from s2s.inference.packed_model import PreparedModel
from s2s.inference.precisions import PRECISIONS
from s2s.machine.memory import enough_memory
from s2s.model import PrefixTransformer
from s2s.search.constraints import ConstrainedScorer, WithoutTokens
from s2s.search.hypotheses import Hypothesis, NotANumberError
from s2s.search.methods.base import Prefix, SearchMethod, SearchRequest, go_on
from s2s.search.methods.constraints import HOW, constraints_of, prefix_of, textless
from s2s.search.rescoring import mean_of, token_scores
from s2s.search.scorer import Ensemble, Scorer, Watched
from s2s.vocabulary import Vocabulary

Sources = Sequence[Sequence[int]]

LESS = "lower search.batch, or the beams or samples of the search"
"""What needs less memory in decoding."""


class SearchResult(NamedTuple):
    """What was found for a source, best first, and where the settings ask for them each one's ``token_scores``."""

    hypotheses: list[Hypothesis]
    token_scores: list[list[float]] | None


@contextmanager
def numbers() -> Iterator[None]:
    """Raise a UserError of one line where a model's log-probabilities are NaN."""
    try:
        yield
    except NotANumberError as error:
        raise UserError(
            "the model's log-probabilities are NaN: its weights are damaged or its precision overflows; "
            "take another checkpoint or precision"
        ) from error


@dataclass(frozen=True)
class ModelEnsemble:
    """Models of one vocabulary that are searched as one: the weighted mean of their probabilities.

    A search calls ``check`` at each step and between the other parts of its work; what it raises ends the search.
    """

    vocabulary: Vocabulary
    models: Sequence[PrefixTransformer]
    weights: Sequence[float] | None = None
    precision: str = "fp32"
    check: Callable[[], object] = go_on

    @cached_property
    def prepared(self) -> list[PreparedModel]:
        """The models as they are now, laid out for decoding once for all sources."""
        return [PRECISIONS[self.precision](model) for model in self.models]

    def scorer(self, sources: Sources) -> Scorer[Any]:
        """The scorer of some sources, ids with begin and end."""
        device, end = self.models[0].output_bias.device, self.vocabulary.end
        rows = pad(sources, self.vocabulary.padding).to(device)
        lengths = torch.tensor([len(source) for source in sources], device=device)
        scorers = [PrefixScorer(model, rows, lengths, end, end) for model in self.prepared]
        one: Scorer[Any] = scorers[0] if len(scorers) == 1 else Ensemble(scorers, self.weights)
        return one if self.check is go_on else Watched(one, self.check)

    def attention(self, sources: Sources, longest: Sequence[int], found: list[list[Hypothesis]]) -> list[list[Tensor]]:
        """How each step of each hypothesis weighs its source's own tokens, begin and end left out."""
        device, end = self.models[0].output_bias.device, self.vocabulary.end
        pairs = [(owner, tokens) for owner, rows in enumerate(found) for tokens, _ in rows]
        if not pairs:
            return [[] for _ in found]
        rows = pad(sources, self.vocabulary.padding).to(device)
        lengths = torch.tensor([len(source) for source in sources], device=device)
        owners = torch.tensor([owner for owner, _ in pairs], device=device)
        target = pad([[end, *tokens] for _, tokens in pairs], self.vocabulary.padding).to(device)
        memories = [select_rows(model.encode(rows, lengths), owners) for model in self.models]
        parts = zip(self.models, memories, strict=True)
        weights = mean_of([model.source_attention(target, memory) for model, memory in parts]).cpu()
        spans = [(min(len(tokens) + 1, longest[owner]), len(sources[owner]) - 1) for owner, tokens in pairs]
        cut = (each[:steps, 1:last] for each, (steps, last) in zip(weights, spans, strict=True))
        return [[next(cut) for _ in rows] for rows in found]


def generate(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sources,
    settings: SearchMethod,
    max_length: int,
    on_progress: Callable[[int], object],
) -> list[list[Hypothesis]]:
    """Return the best hypotheses of each source; ``on_progress`` gets the number of sources done since its last call.

    Sources are ids with begin and end.
    """
    answers = answer(
        ModelEnsemble(vocabulary, [model], None, settings.precision), sources, settings, max_length, on_progress
    )
    return [found.hypotheses for found in answers]


def answer(
    models: ModelEnsemble,
    sources: Sources,
    settings: SearchMethod,
    max_length: int,
    on_progress: Callable[[int], object],
    prefixes: Sequence[str] | None = None,
) -> list[SearchResult]:
    """The same with token scores, by any number of models; hypotheses begin with their source's prefix."""
    texts = prefixes or [settings.prefix] * len(sources)
    known = {text: prefix_of(text, models.vocabulary) for text in set(texts)}
    own = [known[text] for text in texts]
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    found: dict[int, SearchResult] = {}
    for start in range(0, len(order), settings.batch):
        chosen = order[start : start + settings.batch]
        pairs = [(sources[index], own[index]) for index in chosen]
        with enough_memory(lambda: f"decoding of {len(chosen)} sources together", LESS), numbers():  # noqa: B023
            found.update(zip(chosen, _search(models, pairs, settings, max_length), strict=True))
        on_progress(len(chosen))
    return [found[index] for index in range(len(sources))]


@torch.inference_mode()
def _search(
    models: ModelEnsemble, pairs: Sequence[tuple[Sequence[int], Prefix]], settings: SearchMethod, max_length: int
) -> list[SearchResult]:
    scorer, job = models.scorer([source for source, _ in pairs]), job_of(models, pairs, settings, max_length)
    found = settings.find(constrained(scorer, settings, job), job)
    if not settings.token_scores:
        return [SearchResult(hypotheses, None) for hypotheses in found]
    scores = token_scores(scorer, [[tokens for tokens, _ in hypotheses] for hypotheses in found], job.longest)
    return [SearchResult(*pair) for pair in zip(found, scores, strict=True)]


def job_of(
    models: ModelEnsemble, pairs: Sequence[tuple[Sequence[int], Prefix]], settings: SearchMethod, max_length: int
) -> SearchRequest:
    """Return what is asked of some sources and their prefixes; refuse settings with names that a folder gave."""
    refuse_foreign(settings, "search", HOW)
    lengths = [len(source) - 2 for source, _ in pairs]
    longest = settings.longest(lengths, max_length)
    sources, prefixes = zip(*pairs, strict=True)
    attention = partial(models.attention, sources, longest)
    shortest = settings.shortest(lengths, longest)
    return SearchRequest(sources, longest, shortest, prefixes, models.vocabulary, attention, models.check)


def constrained(scorer: Scorer[Any], settings: SearchMethod, job: SearchRequest) -> Scorer[Any]:
    """The scorer without what has no text, under the settings' constraints where they have some."""
    if never := textless(job, settings):
        scorer = WithoutTokens(scorer, never)
    constraints = constraints_of(settings, job)
    return ConstrainedScorer(scorer, constraints) if constraints else scorer
