"""Where replacements are drawn from: each pool proposes a token for every decoder input of a batch."""

from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import Batch, real_inputs
from s2s.data.ragged import flat
from s2s.mitigations.base import StepContext, TrainingContext
from s2s.vocabulary import Vocabulary


class Choice(NamedTuple):
    """What a pool draws with."""

    plain: Tensor  # the ids that texts are made of, all but special ones
    special: Tensor
    frequencies: Tensor | None  # [V] of the training targets, for the pool that needs them
    top_k: int
    temperature: float


def special_ids(vocabulary: Vocabulary) -> Tensor:
    """The ids that no text has."""
    return torch.tensor(sorted({vocabulary.padding, vocabulary.begin, vocabulary.end}))


def plain_ids(vocabulary: Vocabulary) -> Tensor:
    """The ids that texts are made of."""
    ids = torch.arange(vocabulary.size)
    return ids[~torch.isin(ids, special_ids(vocabulary))]


def frequencies(context: TrainingContext) -> Tensor:
    """How often the training targets have each id, [V]."""
    counts = numpy.bincount(flat(context.train().targets), minlength=context.vocabulary.size)
    return torch.from_numpy(counts).double()


Pool = Callable[[Batch, StepContext, Choice], Tensor]
"""Proposals [B, T] for the decoder inputs of a batch; those for the begin symbol and padding mean nothing."""


def from_rows(rows: Tensor, sizes: Tensor, batch: Batch, context: StepContext) -> Tensor:
    """Uniform draws from the first ``sizes`` [B] entries of each row [B, R]."""
    uniform = context.draws.uniform("token", batch.target.shape[1])
    return rows.gather(1, (uniform * sizes[:, None]).long().clamp(max=rows.shape[1] - 1))


def from_target(batch: Batch, context: StepContext, choice: Choice | None = None) -> Tensor:  # noqa: ARG001
    """The example's own target, without its end."""
    tokens = real_inputs(batch).sum(dim=1) - 1
    return from_rows(batch.target.roll(-1, dims=1), tokens.clamp(min=1), batch, context)


def from_sequence(batch: Batch, context: StepContext, choice: Choice) -> Tensor:  # noqa: ARG001
    """Begin, source, end, target and end, as they stand in one row."""
    tokens, source = real_inputs(batch).sum(dim=1, keepdim=True).clamp(min=1), batch.source_lengths[:, None]
    # What opens the decoder's input is what ends a target.
    target = batch.target.roll(-1, dims=1).scatter(1, tokens - 1, batch.target[:, :1])
    columns = torch.arange(batch.source.shape[1] + target.shape[1], device=source.device).expand(len(source), -1)
    behind = target.gather(1, (columns - source).clamp(0, target.shape[1] - 1))
    before = batch.source.gather(1, columns.clamp(max=batch.source.shape[1] - 1))
    return from_rows(torch.where(columns < source, before, behind), (source + tokens)[:, 0], batch, context)


def from_vocabulary(batch: Batch, context: StepContext, choice: Choice) -> Tensor:
    """All tokens but special ones."""
    plain = choice.plain.to(batch.target.device)
    return from_rows(
        plain.expand(len(batch.target), -1), plain.new_full((len(batch.target),), len(plain)), batch, context
    )


def from_unigram(batch: Batch, context: StepContext, choice: Choice) -> Tensor:
    """Tokens as often as the training targets have them."""
    assert choice.frequencies is not None
    cumulated = choice.frequencies.to(batch.target.device).cumsum(0)
    uniform = context.draws.uniform("token", batch.target.shape[1]).double()
    return torch.searchsorted(cumulated, uniform * cumulated[-1], right=True)


def from_similar(batch: Batch, context: StepContext, choice: Choice) -> Tensor:
    """Other tokens by the cosine of their embeddings with the token's."""
    table = functional.normalize(context.passes.model.embedding.tokens.weight.detach().float(), dim=1)
    ids = batch.target.clamp(min=0)
    scores = table[ids] @ table.T / choice.temperature
    scores[..., choice.special.to(ids.device)] = -torch.inf
    scores.scatter_(2, ids[..., None], -torch.inf)
    return _by_weight(scores.softmax(dim=-1), context.draws.uniform("token", ids.shape[1]))


def from_model(batch: Batch, context: StepContext, choice: Choice) -> Tensor:
    """The model's likeliest tokens for the place, given the decoder inputs before it."""
    with torch.no_grad():
        hidden = context.passes.hidden(batch)
        scores = context.passes.model.logits(hidden)
        best = scores.topk(min(choice.top_k, scores.shape[-1]), dim=-1).indices
    place = (context.draws.uniform("token", batch.target.shape[1]) * best.shape[-1]).long()
    # What is predicted at a column is the input of the next one.
    return best.roll(1, dims=1).gather(2, place[..., None])[..., 0]


def _by_weight(weights: Tensor, uniform: Tensor) -> Tensor:
    """An index [B, T] for each row of weights [B, T, V], in proportion to them."""
    cumulated = weights.double().cumsum(dim=-1)
    return torch.searchsorted(cumulated, (uniform.double() * cumulated[..., -1])[..., None], right=True)[..., 0]


POOLS: dict[str, Pool] = {
    "target": from_target,
    "sequence": from_sequence,
    "vocabulary": from_vocabulary,
    "unigram": from_unigram,
    "similar": from_similar,
    "model_top_k": from_model,
}

TAUGHT = {
    "target": {"replace_from_target"},
    "sequence": {"replace_from_target"},
    "vocabulary": {"replace_from_vocabulary"},
    "unigram": {"replace_from_vocabulary"},
    "similar": {"replace_from_vocabulary"},
    "model_top_k": {"replace_from_vocabulary", "own_errors"},
}
"""The corruptions of a diagnosis that replacing from each pool is like; see ``Mitigation.teaches``."""
