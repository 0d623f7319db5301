"""Search over many sources: batches of like length, results in the order of the sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from s2s.batch import pad
from s2s.model import PrefixTransformer
from s2s.model.precisions import PRECISIONS
from s2s.model.prepared import PreparedModel
from s2s.search.constraints import ConstrainedScorer
from s2s.search.ensemble import Ensemble
from s2s.search.forcing import token_scores
from s2s.search.hypotheses import Hypothesis
from s2s.search.method import Job, SearchMethod
from s2s.search.prefix import PrefixScorer
from s2s.search.scorer import Scorer
from s2s.vocabulary import Vocabulary

Sources = Sequence[Sequence[int]]


class Answer(NamedTuple):
    """What was found for a source, best first, and where the settings ask for them each one's ``token_scores``."""

    hypotheses: list[Hypothesis]
    token_scores: list[list[float]] | None


@dataclass(frozen=True)
class Models:
    """Models of one vocabulary that are searched as one: the weighted mean of their probabilities."""

    vocabulary: Vocabulary
    models: Sequence[PrefixTransformer]
    weights: Sequence[float] | None = None
    precision: str = "fp32"

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
        return scorers[0] if len(scorers) == 1 else Ensemble(scorers, self.weights)


def generate(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    sources: Sources,
    settings: SearchMethod,
    max_length: int,
    advance: Callable[[int], object],
) -> list[list[Hypothesis]]:
    """The best hypotheses of each source, ids with begin and end; ``advance`` hears how many sources are done."""
    answers = answer(Models(vocabulary, [model], None, settings.precision), sources, settings, max_length, advance)
    return [found.hypotheses for found in answers]


def answer(
    models: Models, sources: Sources, settings: SearchMethod, max_length: int, advance: Callable[[int], object]
) -> list[Answer]:
    """The same with token scores, by any number of models."""
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    found: dict[int, Answer] = {}
    for start in range(0, len(order), settings.batch):
        chosen = order[start : start + settings.batch]
        found.update(
            zip(chosen, _search(models, [sources[index] for index in chosen], settings, max_length), strict=True)
        )
        advance(len(chosen))
    return [found[index] for index in range(len(sources))]


@torch.no_grad()
def _search(models: Models, sources: Sources, settings: SearchMethod, max_length: int) -> list[Answer]:
    scorer, lengths = models.scorer(sources), [len(source) - 2 for source in sources]
    longest = settings.longest(lengths, max_length)
    job = Job(sources, longest, settings.shortest(lengths, longest), models.vocabulary.decode)
    constraints = settings.constraints()
    found = settings.find(ConstrainedScorer(scorer, constraints) if constraints else scorer, job)
    if not settings.token_scores:
        return [Answer(hypotheses, None) for hypotheses in found]
    scores = token_scores(scorer, [[tokens for tokens, _ in hypotheses] for hypotheses in found], longest)
    return [Answer(*pair) for pair in zip(found, scores, strict=True)]
