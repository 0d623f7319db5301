"""The pools that replacements are drawn from: each proposes a token for every decoder input of a batch."""

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


class PoolData(NamedTuple):
    """The ids and settings that pools draw with."""

    plain: Tensor  # all ids but special ones, sorted
    special: Tensor
    frequencies: Tensor | None  # [V] of the training targets, for the pool that needs them
    top_k: int
    temperature: float


def special_ids(vocabulary: Vocabulary) -> Tensor:
    """Return the ids that no text has."""
    return torch.tensor(sorted({vocabulary.padding, vocabulary.begin, vocabulary.end}))


def plain_ids(vocabulary: Vocabulary) -> Tensor:
    """Return the ids that texts are made of, sorted."""
    ids = torch.arange(vocabulary.size)
    return ids[~torch.isin(ids, special_ids(vocabulary))]


def frequencies(context: TrainingContext) -> Tensor:
    """Return the counts of ids in the training targets, [V]."""
    counts = numpy.bincount(flat(context.train().targets), minlength=context.vocabulary.size)
    return torch.from_numpy(counts).double()


Pool = Callable[[Batch, StepContext, PoolData], Tensor]
"""A function that proposes tokens [B, T] for the decoder inputs of a batch; those for the begin symbol and padding mean
nothing."""


def from_rows(rows: Tensor, sizes: Tensor, batch: Batch, context: StepContext) -> Tensor:
    """Draw uniformly from the first ``sizes`` [B] entries of each row [B, R]."""
    uniform = context.draws.uniform("token", batch.target.shape[1])
    return rows.gather(1, (uniform * sizes[:, None]).long().clamp(max=rows.shape[1] - 1))


def from_target(batch: Batch, context: StepContext, data: PoolData | None = None) -> Tensor:  # noqa: ARG001
    """Draw from the example's target, without its end."""
    tokens = real_inputs(batch).sum(dim=1) - 1
    return from_rows(batch.target.roll(-1, dims=1), tokens.clamp(min=1), batch, context)


def from_sequence(batch: Batch, context: StepContext, data: PoolData) -> Tensor:  # noqa: ARG001
    """Draw from begin, source, end, target and end, concatenated."""
    tokens, source = real_inputs(batch).sum(dim=1, keepdim=True).clamp(min=1), batch.source_lengths[:, None]
    # The symbol that opens the decoder's input is the one that ends a target.
    target = batch.target.roll(-1, dims=1).scatter(1, tokens - 1, batch.target[:, :1])
    columns = torch.arange(batch.source.shape[1] + target.shape[1], device=source.device).expand(len(source), -1)
    after = target.gather(1, (columns - source).clamp(0, target.shape[1] - 1))
    inside = batch.source.gather(1, columns.clamp(max=batch.source.shape[1] - 1))
    return from_rows(torch.where(columns < source, inside, after), (source + tokens)[:, 0], batch, context)


def from_vocabulary(batch: Batch, context: StepContext, data: PoolData) -> Tensor:
    """Draw from all tokens but special ones."""
    plain = data.plain.to(batch.target.device)
    return from_rows(
        plain.expand(len(batch.target), -1), plain.new_full((len(batch.target),), len(plain)), batch, context
    )


def from_unigram(batch: Batch, context: StepContext, data: PoolData) -> Tensor:
    """Draw tokens in proportion to their counts in the training targets."""
    assert data.frequencies is not None
    cumulated = data.frequencies.to(batch.target.device).cumsum(0)
    uniform = context.draws.uniform("token", batch.target.shape[1]).double()
    return torch.searchsorted(cumulated, uniform * cumulated[-1], right=True)


def from_similar(batch: Batch, context: StepContext, data: PoolData) -> Tensor:
    """Draw other tokens by the cosine of their embeddings with the token's."""
    table = functional.normalize(context.passes.model.embedding.tokens.weight.detach().float(), dim=1)
    ids = batch.target.clamp(min=0)
    scores = table[ids] @ table.T / data.temperature
    scores[..., data.special.to(ids.device)] = -torch.inf
    scores.scatter_(2, ids[..., None], -torch.inf)
    # In float32 a sum over a large vocabulary would lose its smallest probabilities.
    cumulated = scores.softmax(dim=-1).double().cumsum(dim=-1)
    uniform = context.draws.uniform("token", ids.shape[1]).double()
    return torch.searchsorted(cumulated, (uniform * cumulated[..., -1])[..., None], right=True)[..., 0]


def from_model(batch: Batch, context: StepContext, data: PoolData) -> Tensor:
    """Draw from the model's likeliest tokens for the column, given the decoder inputs before it."""
    with torch.no_grad():
        hidden = context.passes.hidden(batch)
        scores = context.passes.model.logits(hidden)
        best = scores.topk(min(data.top_k, scores.shape[-1]), dim=-1).indices
    rank = (context.draws.uniform("token", batch.target.shape[1]) * best.shape[-1]).long()
    # The prediction at a column is the input of the next one.
    return best.roll(1, dims=1).gather(2, rank[..., None])[..., 0]


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
