"""Search over many sources: batches of similar length, results in the order of the sources."""

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
from s2s.inference.model_scorer import PrefixScorer
from s2s.inference.packed_model import DecodingModel
from s2s.inference.precisions import PRECISIONS
from s2s.machine.memory import enough_memory
from s2s.model.backbone import Backbone
from s2s.search.constraints import ConstrainedScorer, WithoutTokens
from s2s.search.hypotheses import Hypothesis, NotANumberError, on_device
from s2s.search.methods.base import Prefix, SearchMethod, SearchRequest, never_interrupt
from s2s.search.methods.constraints import HOW, constraints_of, prefix_of, textless
from s2s.search.rescoring import token_scores
from s2s.search.scorer import Ensemble, Scorer, Watched
from s2s.vocabulary import Vocabulary

Sources = Sequence[Sequence[int]]

LESS = "lower search.batch, or the beams or samples of the search"
"""The advice of an error for lack of memory."""


class SearchResult(NamedTuple):
    """A source's hypotheses, best first, and the ``token_scores`` of each where the settings ask for them."""

    hypotheses: list[Hypothesis]
    token_scores: list[list[float]] | None


@contextmanager
def refuse_nan() -> Iterator[None]:
    """Raise a UserError where a model's log-probabilities are NaN."""
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

    A search calls ``check`` at each step and between the other parts of its work; an exception in it ends the search.
    """

    vocabulary: Vocabulary
    models: Sequence[Backbone]
    weights: Sequence[float] | None = None
    precision: str = "fp32"
    check: Callable[[], object] = never_interrupt

    @cached_property
    def packed(self) -> list[DecodingModel]:
        """The models with their present weights, laid out for decoding once for all sources."""
        return [PRECISIONS[self.precision](model) for model in self.models]

    def scorer(self, sources: Sources) -> Scorer[Any]:
        """Return the scorer of some sources, ids with begin and end."""
        rows, lengths = self._padded(sources)
        size = self.vocabulary.size
        start, end = self.vocabulary.start, self.vocabulary.end
        scorers = [PrefixScorer(model, rows, lengths, start, end, size) for model in self.packed]
        scorer: Scorer[Any] = scorers[0] if len(scorers) == 1 else Ensemble(scorers, self.weights)
        return scorer if self.check is never_interrupt else Watched(scorer, self.check)

    def attention(
        self, sources: Sources, longest: Sequence[int], hypotheses: list[list[Hypothesis]]
    ) -> list[list[Tensor]]:
        """Return how each step of each hypothesis weighs its source's own tokens, begin and end left out."""
        start, opening, closing = self.vocabulary.start, len(self.vocabulary.opening), len(self.vocabulary.closing)
        pairs = [(owner, tokens) for owner, rows in enumerate(hypotheses) for tokens, _ in rows]
        if not pairs:
            return [[] for _ in hypotheses]
        rows, lengths = self._padded(sources)
        owners = torch.tensor([owner for owner, _ in pairs], device=rows.device)
        target = pad([[start, *tokens] for _, tokens in pairs], self.vocabulary.padding).to(rows.device)
        # Each source is encoded once, whatever the number of its hypotheses.
        memories = [model.encode(rows, lengths).rows(owners) for model in self.models]
        parts = [model.source_attention(target, memory) for model, memory in zip(self.models, memories, strict=True)]
        # A hypothesis of the greatest length has no step for the end.
        spans = [(min(len(tokens) + 1, longest[owner]), len(sources[owner]) - closing) for owner, tokens in pairs]
        weights = torch.stack(parts).mean(dim=0).cpu()
        cut = iter([rows[:steps, opening:last] for rows, (steps, last) in zip(weights, spans, strict=True)])
        return [[next(cut) for _ in rows] for rows in hypotheses]

    def _padded(self, sources: Sources) -> tuple[Tensor, Tensor]:
        """Return the sources [B, S] and their lengths [B] on the models' device."""
        device = self.models[0].device
        lengths = torch.tensor([len(source) for source in sources])
        return on_device(pad(sources, self.vocabulary.padding), device), on_device(lengths, device)


def generate(
    model: Backbone,
    vocabulary: Vocabulary,
    sources: Sources,
    settings: SearchMethod,
    max_length: int,
    on_progress: Callable[[int], object],
) -> list[list[Hypothesis]]:
    """Return the best hypotheses of each source, ids with begin and end.

    ``on_progress`` gets the number of sources done since its last call.
    """
    models = ModelEnsemble(vocabulary, [model], None, settings.precision)
    return [result.hypotheses for result in answer(models, sources, settings, max_length, on_progress)]


def answer(
    models: ModelEnsemble,
    sources: Sources,
    settings: SearchMethod,
    max_length: int,
    on_progress: Callable[[int], object],
    prefixes: Sequence[str] | None = None,
) -> list[SearchResult]:
    """Do the same with any number of models, with token scores and with a prefix for each source's hypotheses."""
    texts = prefixes or [settings.prefix] * len(sources)
    # Most sources share a prefix, so each different one is encoded once.
    encoded = {text: prefix_of(text, models.vocabulary) for text in set(texts)}
    # Sources of similar length share a batch, which needs little padding.
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    results: dict[int, SearchResult] = {}
    for start in range(0, len(order), settings.batch):
        chosen = order[start : start + settings.batch]
        pairs = [(sources[index], encoded[texts[index]]) for index in chosen]
        with enough_memory(lambda: f"decoding of {len(chosen)} sources together", LESS), refuse_nan():  # noqa: B023
            results.update(zip(chosen, _search(models, pairs, settings, max_length), strict=True))
        on_progress(len(chosen))
    return [results[index] for index in range(len(sources))]


@torch.inference_mode()
def _search(
    models: ModelEnsemble, pairs: Sequence[tuple[Sequence[int], Prefix]], settings: SearchMethod, max_length: int
) -> list[SearchResult]:
    scorer, request = models.scorer([source for source, _ in pairs]), request_for(models, pairs, settings, max_length)
    hypotheses = settings.find(constrained(scorer, settings, request), request)
    if not settings.token_scores:
        return [SearchResult(rows, None) for rows in hypotheses]
    # The scorer without constraints: token scores are the model's own, not the edited ones that the search ranks by.
    scores = token_scores(scorer, [[tokens for tokens, _ in rows] for rows in hypotheses], request.longest)
    return [SearchResult(*pair) for pair in zip(hypotheses, scores, strict=True)]


def request_for(
    models: ModelEnsemble, pairs: Sequence[tuple[Sequence[int], Prefix]], settings: SearchMethod, max_length: int
) -> SearchRequest:
    """Return the request of some sources with their prefixes.

    Raises a UserError for settings in which a run's folder names code or a file.
    """
    refuse_foreign(settings, "search", HOW)
    lengths = [len(source) - models.vocabulary.framing for source, _ in pairs]
    longest = settings.longest(lengths, max_length)
    sources, prefixes = zip(*pairs, strict=True)
    attention = partial(models.attention, sources, longest)
    shortest = settings.shortest(lengths, longest)
    return SearchRequest(sources, longest, shortest, prefixes, models.vocabulary, attention, models.check)


def constrained(scorer: Scorer[Any], settings: SearchMethod, request: SearchRequest) -> Scorer[Any]:
    """Return the scorer under the settings' constraints, and without the tokens that are never written."""
    if never := textless(request, settings):
        scorer = WithoutTokens(scorer, never)
    constraints = constraints_of(settings, request)
    return ConstrainedScorer(scorer, constraints) if constraints else scorer
