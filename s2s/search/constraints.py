"""Edits of a scorer's log-probabilities, given each row's own tokens: a scorer again, for any search.

A search ranks by the edited log-probabilities and its scores are their sums; a constraint keeps them at most 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol

import torch
from torch import Tensor

from s2s.search.scorer import Scorer, State


class Constraint(Protocol):
    """A function of the rows' tokens alone: whatever else is searched along changes nothing."""

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor, /) -> Tensor:
        """The edited log-probabilities [N, V] of the tokens after ``histories``.

        ``histories`` are int64 [N, t], without the begin; ``sources`` int64 [N] are the numbers of the rows' sources.
        """


class Tracked(NamedTuple, Generic[State]):
    """The inner scorer's state, and the tokens [N, t] and sources [N] of its rows, where the log-probabilities are."""

    inner: State
    tokens: Tensor
    sources: Tensor


class ConstrainedScorer(Generic[State]):
    """A scorer under constraints, which are applied in their order."""

    def __init__(self, scorer: Scorer[State], constraints: Sequence[Constraint]) -> None:
        self.scorer, self.constraints = scorer, list(constraints)
        self.sources, self.begin, self.end = scorer.sources, scorer.begin, scorer.end

    def start(self) -> Tracked[State]:
        """The inner start, with rows that have no tokens."""
        empty = torch.empty(self.sources, 0, dtype=torch.int64)
        return Tracked(self.scorer.start(), empty, torch.arange(self.sources))

    def step(self, tokens: Tensor, state: Tracked[State]) -> tuple[Tensor, Tracked[State]]:
        """The inner step, its log-probabilities edited."""
        log_probs, inner = self.scorer.step(tokens, state.inner)
        # The first token of a row, the begin, is dropped here: a history holds what the search chose.
        tokens = torch.cat([state.tokens, tokens[:, None].to(state.tokens.device)], dim=1).to(log_probs.device)
        sources = state.sources.to(log_probs.device)
        for constraint in self.constraints:
            log_probs = constraint(log_probs, tokens[:, 1:], sources)
        return log_probs, Tracked(inner, tokens, sources)

    def reorder(self, state: Tracked[State], index: Tensor) -> Tracked[State]:
        """The inner reorder, tokens and sources along with it."""
        rows = index.to(state.tokens.device)
        return Tracked(self.scorer.reorder(state.inner, index), state.tokens[rows], state.sources[rows])


class MinimumLength:
    """No hypothesis ends before it has its source's number of tokens; for searches that have no such setting."""

    def __init__(self, lengths: Sequence[int], end: int) -> None:
        self.lengths, self.end = torch.tensor(lengths, dtype=torch.int64), end

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """-inf for the end of rows that are too short."""
        early = histories.size(1) < self.lengths.to(sources.device)[sources]
        ends = torch.arange(log_probs.size(1), device=sources.device) == self.end
        return log_probs.masked_fill(early[:, None] & ends, -math.inf)


@dataclass(frozen=True)
class NoRepeatedNgram:
    """No n-gram of ``length`` tokens comes twice in a hypothesis (Paulus et al. 2018, for trigrams)."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"an n-gram has at least 1 token, not {self.length}")

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """-inf for each token that followed the last ``length`` - 1 tokens before."""
        steps = histories.size(1)
        if steps < self.length:
            return log_probs
        windows = histories.unfold(1, self.length, 1)
        last = histories[:, None, steps - self.length + 1 :]
        again = (windows[:, :, :-1] == last).all(dim=2)
        return log_probs.masked_fill(marked(log_probs, windows[:, :, -1], again), -math.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Log-probabilities of tokens that a hypothesis already has are multiplied by ``factor``; 1 changes nothing.

    Keskar et al. (2019, "CTRL", section 4.1) divide the logits of such tokens; log-probabilities are logits none of
    which is positive, so that what divides a positive one multiplies these. They are not normalised again.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"a repetition penalty is positive, not {self.factor}")

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """The log-probabilities, the repeated tokens' multiplied."""
        seen = marked(log_probs, histories, torch.ones_like(histories, dtype=torch.bool))
        return torch.where(seen, log_probs * self.factor, log_probs)


class ForbiddenPhrases:
    """None of some token sequences comes in a hypothesis; one that ends with the end may not stand at its end."""

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        if not all(phrases):
            raise ValueError("a forbidden phrase has at least 1 token")
        self.phrases = [list(phrase) for phrase in phrases]

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """-inf for the last token of each phrase whose others are a row's last tokens."""
        banned = torch.zeros_like(log_probs, dtype=torch.bool)
        for *start, last in self.phrases:
            if len(start) <= histories.size(1):
                tail = histories[:, histories.size(1) - len(start) :]
                banned[:, last] |= (tail == torch.tensor(start, dtype=torch.int64, device=tail.device)).all(dim=1)
        return log_probs.masked_fill(banned, -math.inf)


class ForcedPrefixes:
    """Each source's hypotheses begin with its own tokens, which count with their log-probabilities.

    ``continuing`` [V] marks for each source the tokens that may not come next, since they would go on with the prefix's
    last word; None where they may.
    """

    def __init__(
        self, prefixes: Sequence[Sequence[int]], continuing: Sequence[Sequence[bool] | None] | None = None
    ) -> None:
        longest = max(map(len, prefixes), default=0)
        padded = [[*prefix, *[-1] * (longest - len(prefix))] for prefix in prefixes]
        self.tokens = torch.tensor(padded, dtype=torch.int64).view(len(prefixes), longest)
        self.lengths = torch.tensor([len(prefix) for prefix in prefixes])
        # Sources share their marks: a table of the different ones and the row of each source, -1 for none.
        tables = {id(marks): marks for marks in continuing or [] if marks is not None}
        rows = {key: row for row, key in enumerate(tables)}
        self.continuing = torch.tensor(list(tables.values()), dtype=torch.bool)
        self.rows = torch.tensor([rows.get(id(marks), -1) for marks in continuing or [None] * len(prefixes)])

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """-inf for all but a row's next token, as long as its prefix goes, and then for what goes on with its word."""
        step = histories.size(1)
        rows = sources.cpu()
        ended = (self.lengths[rows] == step) & (self.rows[rows] >= 0)
        if bool(ended.any()):
            banned = self.continuing[self.rows[rows].clamp(min=0)] & ended[:, None]
            log_probs = log_probs.masked_fill(banned.to(log_probs.device), -math.inf)
        if step >= self.tokens.size(1):
            return log_probs
        wanted = self.tokens.to(sources.device)[sources, step][:, None]
        allowed = (wanted < 0) | (torch.arange(log_probs.size(1), device=sources.device) == wanted)
        return log_probs.masked_fill(~allowed, -math.inf)


class WithoutTokens(Generic[State]):
    """A scorer whose hypotheses never have some tokens; what it scores otherwise stays as it is."""

    def __init__(self, scorer: Scorer[State], tokens: Sequence[int]) -> None:
        self.scorer, self.tokens = scorer, list(tokens)
        self.sources, self.begin, self.end = scorer.sources, scorer.begin, scorer.end

    def start(self) -> State:
        """The inner start."""
        return self.scorer.start()

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The inner step; its log-probabilities are edited in place, which no search sees twice."""
        log_probs, state = self.scorer.step(tokens, state)
        for token in self.tokens:
            log_probs[:, token] = -math.inf
        return log_probs, state

    def reorder(self, state: State, index: Tensor) -> State:
        """The inner reorder."""
        return self.scorer.reorder(state, index)


def marked(log_probs: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Which of [N, V] are among the tokens [N, M] where ``chosen`` [N, M]."""
    counts = torch.zeros_like(log_probs, dtype=torch.int32)
    return counts.scatter_add(1, tokens, chosen.int()) > 0
