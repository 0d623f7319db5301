"""Noise in the decoder's input: word dropout, duplicates, shifts, swaps and random replacement.

No column may read the token that it has to predict. Noise that moves tokens therefore moves them to the right only,
and where a swap has to show a token early, the label there does not count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import IGNORED, Batch, real_inputs
from s2s.config.ranges import Count, Positive, Share
from s2s.data.ragged import flat
from s2s.errors import UserError, nearest
from s2s.mitigations.base import PrefixMethod, StepContext, TrainingContext
from s2s.vocabulary import Vocabulary


class PoolData(NamedTuple):
    """The ids and settings that pools draw with."""

    plain: Tensor  # the ids that texts are made of, sorted
    written: Tensor  # those that a model may write: special ones too, but no marks
    frequencies: Tensor | None  # [V] of the training targets, for the pool that needs them
    top_k: int
    temperature: float


def plain_ids(vocabulary: Vocabulary) -> Tensor:
    """Return the ids that texts are made of, sorted."""
    return torch.tensor(vocabulary.plain_ids())


def only(scores: Tensor, ids: Tensor) -> Tensor:
    """Return scores [..., V] that are minus infinity but at some ids [N].

    A model of ``transformers`` may have more rows V than its vocabulary has pieces.
    """
    others = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
    others[ids.to(scores.device)] = False
    return scores.masked_fill(others, -torch.inf)


def frequencies(context: TrainingContext) -> Tensor:
    """Return the counts of plain ids in the training targets, [V]."""
    vocabulary = context.vocabulary
    # In double: float32 cannot tell n from n + 1 beyond 2^24, which large training sets exceed.
    counts = torch.from_numpy(numpy.bincount(flat(context.train().targets), minlength=vocabulary.size)).double()
    plain = plain_ids(vocabulary)
    return torch.zeros_like(counts).index_copy(0, plain, counts[plain])


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


def from_past(batch: Batch, context: StepContext, data: PoolData | None = None) -> Tensor:  # noqa: ARG001
    """Draw from the example's tokens before the column; the first one, which has none before it, stays."""
    columns = torch.arange(batch.target.shape[1], device=batch.target.device)
    uniform = context.draws.uniform("token", len(columns))
    # Column 0 is the begin symbol and has no draw; column t has t - 1 tokens before it, from column 1 on.
    return batch.target.gather(1, (1 + (uniform * (columns - 1)).long()).minimum(columns))


def from_sequence(batch: Batch, context: StepContext, data: PoolData) -> Tensor:  # noqa: ARG001
    """Draw from begin, source, end, target and end, concatenated."""
    # The article's text draws from the target; its script draws from all of this, separators included.
    tokens, source = real_inputs(batch).sum(dim=1, keepdim=True).clamp(min=1), batch.source_lengths[:, None]
    # The last label is no decoder input; a row without labels has none, and its draws count for nothing.
    last = batch.labels.gather(1, tokens - 1).clamp(min=0)
    target = batch.target.roll(-1, dims=1).scatter(1, tokens - 1, last)
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
    table = functional.normalize(context.passes.model.token_table.detach().float(), dim=1)
    ids = batch.target.clamp(min=0)
    scores = only(table[ids] @ table.T / data.temperature, data.plain)
    scores.scatter_(2, ids[..., None], -torch.inf)
    # In float32 a sum over a large vocabulary would lose its smallest probabilities.
    cumulated = scores.softmax(dim=-1).double().cumsum(dim=-1)
    uniform = context.draws.uniform("token", ids.shape[1]).double()
    return torch.searchsorted(cumulated, (uniform * cumulated[..., -1])[..., None], right=True)[..., 0]


def from_model(batch: Batch, context: StepContext, data: PoolData) -> Tensor:
    """Draw from the model's likeliest tokens for the column, given the decoder inputs before it."""
    with torch.no_grad():
        hidden = context.passes.hidden(batch)
        scores = only(context.passes.model.logits(hidden), data.written)
        best = scores.topk(min(data.top_k, len(data.written)), dim=-1).indices
    rank = (context.draws.uniform("token", batch.target.shape[1]) * best.shape[-1]).long()
    # The prediction at a column is the input of the next one.
    return best.roll(1, dims=1).gather(2, rank[..., None])[..., 0]


POOLS: dict[str, Pool] = {
    "target": from_target,
    "past": from_past,
    "sequence": from_sequence,
    "vocabulary": from_vocabulary,
    "unigram": from_unigram,
    "similar": from_similar,
    "model_top_k": from_model,
}

TAUGHT = {
    "target": {"replace_from_target"},
    "past": {"replace_from_target"},
    "sequence": {"replace_from_target"},
    "vocabulary": {"replace_from_vocabulary"},
    "unigram": {"replace_from_vocabulary"},
    "similar": {"replace_from_vocabulary"},
    "model_top_k": {"replace_from_vocabulary", "own_errors"},
}
"""The corruptions of a diagnosis that replacing from each pool is like; see ``Mitigation.teaches``."""


@dataclass
class Noise(PrefixMethod):
    """The keys of methods that change each token of the decoder's input with a probability.

    The begin symbol and padding never change.
    """

    rate: Share = 0.1  # probability that a token changes
    gate: Share = 1.0  # probability that an example may change at all
    position_decay: Share = 0.0  # the rate of token t = 1, 2 ... is rate (1 - position_decay^t): it grows with t

    @property
    def touches_any(self) -> bool:
        """Whether any token of any example can change."""
        return bool(self.rate and self.gate)

    def hits(self, batch: Batch, context: StepContext) -> Tensor:
        """Draw which decoder inputs [B, T] change."""
        columns = torch.arange(batch.target.shape[1], device=batch.target.device)
        rates = context.strength * self.rate * (1 - self.position_decay**columns)
        drawn = context.draws.uniform("hit", len(columns)) < rates
        gate = context.draws.uniform("gate", 1) < self.gate
        return drawn & gate & real_inputs(batch) & (columns > 0)


@dataclass
class WordDropout(Noise):
    """Each token of the decoder's input, and of the source with ``scope: all``, loses its embedding at the rate.

    A vector of zeros replaces it; position and segment stay. Begin and end symbols stay. Source: Gal and Ghahramani
    2016; Takase and Kiyono 2021, who drop both sides at 0.1. Cost: none. Teacher forcing at rate 0 or weight 0. It
    drops single occurrences, not all those of a type at once; ``position_decay`` is for the target alone.
    """

    scope: Literal["target", "all"] = "target"  # the decoder's input, or the source as well

    def teaches(self) -> set[str]:
        return set()

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        # -1 is no token: ``Backbone.words`` gives it a vector of zeros.
        batch = batch._replace(target=batch.target.masked_fill(self.hits(batch, context), -1))
        if self.scope == "target":
            return batch
        columns = torch.arange(batch.source.shape[1], device=batch.source.device)
        inside = (columns > 0) & (columns < batch.source_lengths[:, None] - 1)
        drawn = context.draws.uniform("source", len(columns)) < context.strength * self.rate
        # The gate that ``hits`` drew for the target: an example changes on both sides or on none.
        gate = context.draws.uniform("gate", 1) < self.gate
        return batch._replace(source=batch.source.masked_fill(drawn & gate & inside, -1))


@dataclass
class DuplicateNoise(Noise):
    """Each token is read twice at the rate; what follows it moves a column to the right, and the last tokens are lost.

    It imitates stuttering, and has no source. Labels and the prefix's length stay. Cost: none. Teacher forcing at rate
    0 or weight 0.
    """

    def teaches(self) -> set[str]:
        return {"duplicate"} if self.touches_any else set()

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        hits = self.hits(batch, context)
        columns = torch.arange(hits.shape[1], device=hits.device).repeat(len(hits), 1)
        first = columns + hits.cumsum(dim=1) - hits.long()  # the column at which each token is read first
        order = torch.searchsorted(first, columns, right=True) - 1
        target = torch.where(real_inputs(batch), batch.target.gather(1, order), batch.target)
        return batch._replace(target=target)


@dataclass
class ShiftNoise(Noise):
    """Each token is left out at the rate; what preceded it moves a column to the right, after repeated begin symbols.

    It imitates skipping, and has no source. Labels and the prefix's length stay. Cost: none. Teacher forcing at rate 0
    or weight 0.
    """

    def teaches(self) -> set[str]:
        return {"drop"} if self.touches_any else set()

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        target = batch.target
        kept = ~self.hits(batch, context)
        # Moving the rest to the left would close the gap, but show each column its label. A stable sort puts the begin
        # symbol and one copy of it for each token left out first, then all others in their order.
        columns = torch.arange(target.shape[1], device=target.device)
        order = torch.where(kept & (columns > 0), columns, 0).sort(dim=1, stable=True).values
        return batch._replace(target=target.gather(1, order))


@dataclass
class SwapNoise(Noise):
    """Each token is swapped with the next one at the rate; a token takes part in one swap at most.

    Where the swap moves a token to the column that has to predict it, the label does not count; the update is divided
    by all its labels, those included. It has no source. Cost: none. Teacher forcing at rate 0 or weight 0.
    """

    def teaches(self) -> set[str]:
        return {"swap"} if self.touches_any else set()

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        followed = functional.pad(real_inputs(batch)[:, 1:], (0, 1))
        first = _not_after_another(self.hits(batch, context) & followed)
        target = torch.where(first, batch.target.roll(-1, dims=1), batch.target)
        target = torch.where(first.roll(1, dims=1), batch.target.roll(1, dims=1), target)
        return batch._replace(target=target, labels=batch.labels.masked_fill(first, IGNORED))


def _not_after_another(marks: Tensor) -> Tensor:
    """Drop each mark that directly follows a mark that stays, from left to right."""
    # A loop, as whether a mark stays depends on all marks before it in an unbroken run.
    kept = torch.zeros_like(marks)
    for column in range(marks.shape[1]):
        before = kept[:, column - 1] if column else torch.zeros_like(marks[:, 0])
        kept[:, column] = marks[:, column] & ~before
    return kept


@dataclass
class RandomReplacement(Noise):
    """With probability ``gate`` an example has each token of its decoder input replaced with probability ``rate``.

    The new token is drawn from ``pool``; labels, source, the begin symbol and the prefix's length stay. Source: Su 2020
    (7259): gate 0.5, rate 0.3, pool "target". His script random_replacement.py has pool "sequence". Cost: none, except
    for "model_top_k" (a target pass without gradients). Teacher forcing at rate 0, gate 0 or weight 0. A draw may be
    the token itself. Pools, each uniform unless stated otherwise:

    - target: the occurrences of tokens in the example's target
    - past: the occurrences of tokens before the replaced one in the example's target; the first token stays. Unlike
      "target" it never shows a word that is still to come
    - sequence: the occurrences of tokens in begin, source, end, target, end of the example
    - vocabulary: all tokens but special ones
    - unigram: all tokens in proportion to their counts in the training targets
    - similar: other tokens v in proportion to exp(cos(e_v, e_t) / temperature), special ones excluded (Takase and
      Kiyono 2021's similarity-based replacement, with the cosine)
    - model_top_k: the model's ``top_k`` likeliest tokens for the column given the gold prefix
    """

    rate: Share = 0.3
    gate: Share = 0.5
    pool: str = "target"  # a row of s2s.mitigations.prefix_noise.POOLS: where the new tokens come from
    top_k: Count = 10  # for pool model_top_k
    temperature: Positive = 0.1  # for pool similar

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise UserError(f"pool: no '{self.pool}'{nearest(self.pool, POOLS)}")

    def prepare(self, context: TrainingContext) -> PoolData:
        counts = frequencies(context) if self.pool == "unigram" else None
        vocabulary = context.vocabulary
        written = torch.tensor([id for id in range(vocabulary.size) if id not in vocabulary.marks])
        return PoolData(plain_ids(vocabulary), written, counts, self.top_k, self.temperature)

    def teaches(self) -> set[str]:
        return TAUGHT[self.pool] if self.touches_any else set()

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        drawn = POOLS[self.pool](batch, context, context.prepared)
        return batch._replace(target=torch.where(self.hits(batch, context), drawn, batch.target))
