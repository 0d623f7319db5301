"""A trained run: generate from it and score with it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2s import checkpoints, store
from s2s.batch import IGNORED, Batch, collate
from s2s.errors import UserError, nearest
from s2s.facts import read_facts
from s2s.matmul import kernel
from s2s.model import PrefixTransformer
from s2s.objective import Objective
from s2s.recipe import Recipe
from s2s.search.generation import generate
from s2s.search.settings import SearchSettings
from s2s.vocabulary import Vocabulary

logger = logging.getLogger("s2s")


class Hypothesis(NamedTuple):
    """A generated text, its score (log-probability over length ** length_penalty) and its ids."""

    text: str
    score: float
    tokens: list[int]


@dataclass(frozen=True)
class Run:
    """A run folder with the weights of one checkpoint, in evaluation mode."""

    folder: Path
    recipe: Recipe
    vocabulary: Vocabulary
    objective: Objective
    kernel: str
    step: int

    def generate(self, texts: Sequence[str], beams: int = 1, n_best: int = 1, **search: Any) -> list[list[Hypothesis]]:
        """The best hypotheses of each text, best first; further ``search`` keys are those of a recipe's ``search:``.

        Sources longer than the recipe's ``data.max_source`` are cut, and counted in a warning of the logger ``s2s``.
        Errors: a UserError that names an unknown key.
        """
        known = {item.name for item in fields(SearchSettings)}
        for key in search:
            if key not in known:
                raise UserError(f"unknown search key '{key}'{nearest(key, known)}")
        settings = replace(self.recipe.search, beams=beams, n_best=n_best, **search)
        return self.search(texts, settings, lambda _: None)

    def search(
        self, texts: Sequence[str], settings: SearchSettings, advance: Callable[[int], object]
    ) -> list[list[Hypothesis]]:
        """The same with whole settings; ``advance`` hears how many more sources are done."""
        max_length = self.max_length(settings)
        with kernel(self.kernel):
            found = generate(self.objective.model, self.vocabulary, self._sources(texts), settings, max_length, advance)
        return [[self._hypothesis(tokens, score) for tokens, score in hypotheses] for hypotheses in found]

    @torch.no_grad()
    def score(self, sources: Sequence[str], targets: Sequence[str | Sequence[int]]) -> list[Tensor]:
        """Log-probability of each target token, the end included: a tensor [tokens + 1] for each pair.

        A target is a text or a sequence of ids without begin and end. Sources are cut as in ``generate``.
        """
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources, but {len(targets)} targets")
        ids = [self.vocabulary.encode(target) if isinstance(target, str) else list(target) for target in targets]
        pairs = list(zip(self._sources(sources), ids, strict=True))
        size = self.recipe.search.batch
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        with kernel(self.kernel):
            return [row for batch in batches for row in self._score(batch)]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Tensor]:
        batch = collate(pairs, self.vocabulary.padding, self.vocabulary.end).to(self.model.output_bias.device)
        log_probs = target_log_probs(self.model, batch)
        return [row[labels != IGNORED] for row, labels in zip(log_probs.cpu(), batch.labels.cpu(), strict=True)]

    @property
    def model(self) -> PrefixTransformer:
        """The prefix LM."""
        return self.objective.model

    def _sources(self, texts: Sequence[str]) -> list[list[int]]:
        limit = self.recipe.data.max_source
        ids = self.vocabulary.encode_all(list(texts))
        cut = sum(len(row) > limit - 2 for row in ids)
        if cut:
            logger.warning("%d of %d sources cut to %d tokens", cut, len(ids), limit)
        return [self.vocabulary.source_ids(row, limit) for row in ids]

    def max_length(self, settings: SearchSettings) -> int:
        """The search's own limit, or that of the training targets; both end within the model's room."""
        room = self.model.shape.room(self.recipe.data.max_source)
        length = settings.max_length or min(self.recipe.data.max_target, room)
        if length > room:
            raise UserError(f"search.max_length: {length} tokens, but behind the sources there is room for {room}")
        return length

    def _hypothesis(self, tokens: list[int], score: float) -> Hypothesis:
        return Hypothesis(self.vocabulary.decode(tokens), score, tokens)


def target_log_probs(model: PrefixTransformer, batch: Batch) -> Tensor:
    """Log-probabilities [B, T] of a batch's labels; 0 where there is none."""
    memory = model.encode(batch.source, batch.source_lengths)
    log_probs = model.logits(model.decode(batch.target, memory)).float().log_softmax(dim=-1)
    chosen = log_probs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    return chosen.masked_fill(batch.labels == IGNORED, 0.0)


def load(folder: str | Path, checkpoint: str | None = None, device: str | None = None) -> Run:
    """Load a run from its folder: the best checkpoint, or "best" or "last" as asked.

    The device is a GPU where there is one, unless named. Errors: a UserError when there is no run or no whole
    checkpoint.
    """
    folder = Path(folder)
    recipe, facts = store.read_recipe(folder), read_facts(folder)
    step, tensors = checkpoints.weights(folder, checkpoint)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        objective = Objective(PrefixTransformer(facts.architecture), recipe.objective)
    objective.load_state_dict(tensors, assign=True)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Run(folder, recipe, store.read_vocabulary(folder), objective.to(place).eval(), facts.kernel, step)
