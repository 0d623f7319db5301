"""Constraints: edits of a scorer's log-probabilities that depend on each row's tokens, for any search.

A search ranks by the edited log-probabilities and its scores are their sums; a constraint keeps them at most 0. Shapes:
N rows (hypotheses), t tokens of each so far, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol

import torch
from torch import Tensor

from s2s.search.scorer import Scorer, State, WrappedScorer


class Constraint(Protocol):
    """A function of a row's tokens and source only, so that the other rows of a batch change nothing."""

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor, /) -> Tensor:
        """Return the edited log-probabilities [N, V] of the tokens after ``histories``.

        ``histories`` are int64 [N, t], without the begin; ``sources`` int64 [N] are the numbers of the rows' sources.
        """


class Tracked(NamedTuple, Generic[State]):
    """The inner scorer's state, and its rows' tokens [N, 1 + t] (begin first) and sources [N] on its device."""

    inner: State
    tokens: Tensor
    sources: Tensor


class ConstrainedScorer(Generic[State]):
    """A scorer whose log-probabilities some constraints edit, one after another."""

    def __init__(self, scorer: Scorer[State], constraints: Sequence[Constraint]) -> None:
        self.scorer, self.constraints = scorer, list(constraints)
        self.sources, self.begin, self.end = scorer.sources, scorer.begin, scorer.end

    def start(self) -> Tracked[State]:
        empty = torch.empty(self.sources, 0, dtype=torch.int64)
        return Tracked(self.scorer.start(), empty, torch.arange(self.sources))

    def step(self, tokens: Tensor, state: Tracked[State]) -> tuple[Tensor, Tracked[State]]:
        log_probs, inner = self.scorer.step(tokens, state.inner)
        tokens = torch.cat([state.tokens, tokens[:, None].to(state.tokens.device)], dim=1).to(log_probs.device)
        sources = state.sources.to(log_probs.device)
        for constraint in self.constraints:
            # Without the begin: a history is the tokens that the search chose.
            log_probs = constraint(log_probs, tokens[:, 1:], sources)
        return log_probs, Tracked(inner, tokens, sources)

    def reorder(self, state: Tracked[State], index: Tensor) -> Tracked[State]:
        rows = index.to(state.tokens.device)
        return Tracked(self.scorer.reorder(state.inner, index), state.tokens[rows], state.sources[rows])


class MinimumLength:
    """Allow no end before a hypothesis has its source's number of tokens, for searches without such a setting."""

    def __init__(self, lengths: Sequence[int], end: int) -> None:
        self.lengths, self.end = torch.tensor(lengths, dtype=torch.int64), end

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
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
        """Set each token that once followed the last ``length`` - 1 tokens to -inf."""
        steps = histories.size(1)
        if steps < self.length:
            return log_probs
        windows = histories.unfold(1, self.length, 1)
        last = histories[:, None, steps - self.length + 1 :]
        # At a length of 1 nothing has to match (``all`` of nothing is true), so every earlier token is refused.
        repeated = (windows[:, :, :-1] == last).all(dim=2)
        return log_probs.masked_fill(marked(log_probs, windows[:, :, -1], repeated), -math.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Log-probabilities of tokens that a hypothesis already has are multiplied by ``factor``; 1 changes nothing.

    Keskar et al. (2019, "CTRL", section 4.1) divide the positive logits of such tokens by it; log-probabilities are
    logits that are never positive, so they are multiplied instead. They are not normalised afterwards.
    """

    factor: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"a repetition penalty is positive, not {self.factor}")

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        seen = marked(log_probs, histories, torch.ones_like(histories, dtype=torch.bool))
        return torch.where(seen, log_probs * self.factor, log_probs)


class ForbiddenPhrases:
    """None of some token sequences comes in a hypothesis; one that ends with the end may not be its last part."""

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        if not all(phrases):
            raise ValueError("a forbidden phrase has at least 1 token")
        self.phrases = [list(phrase) for phrase in phrases]

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """Set the last token of each phrase to -inf in the rows that end with its other tokens."""
        banned = torch.zeros_like(log_probs, dtype=torch.bool)
        for *start, last in self.phrases:
            if len(start) <= histories.size(1):
                tail = histories[:, histories.size(1) - len(start) :]
                banned[:, last] |= (tail == torch.tensor(start, dtype=torch.int64, device=tail.device)).all(dim=1)
        return log_probs.masked_fill(banned, -math.inf)


class AllowedOutputs:
    """Only the given outputs, kept as a prefix tree (De Cao et al. 2021).

    A search's greatest length must be at least that of the longest output, or a hypothesis may be a part of one.
    """

    def __init__(self, outputs: Sequence[Sequence[int]], end: int) -> None:
        self.root: dict[int, Any] = {}
        for output in outputs:
            node = self.root
            for token in (*output, end):
                node = node.setdefault(token, {})

    def __call__(self, log_probs: Tensor, histories: Tensor, _: Tensor) -> Tensor:
        """Set to -inf all tokens that no output has next: every token after a history that no output begins with."""
        allowed = torch.zeros_like(log_probs, dtype=torch.bool)
        for row, history in enumerate(histories.tolist()):
            node = self.root
            for token in history:
                node = node.get(token, {})
            allowed[row, sorted(node)] = True
        return log_probs.masked_fill(~allowed, -math.inf)


class ForcedPrefixes:
    """Each source's hypotheses begin with the tokens of its prefix, which count with their log-probabilities.

    ``continuing`` has for each source a mask [V] of the tokens that may not follow the prefix because they would
    continue its last word, or None where any token may follow.
    """

    def __init__(
        self, prefixes: Sequence[Sequence[int]], continuing: Sequence[Sequence[bool] | None] | None = None
    ) -> None:
        longest = max(map(len, prefixes), default=0)
        padded = [[*prefix, *[-1] * (longest - len(prefix))] for prefix in prefixes]
        self.tokens = torch.tensor(padded, dtype=torch.int64).view(len(prefixes), longest)
        self.lengths = torch.tensor([len(prefix) for prefix in prefixes])
        # Most sources share one list, so a table has a row for each different list; -1 is the row of None.
        masks = {id(mask): mask for mask in continuing or [] if mask is not None}
        rows = {key: row for row, key in enumerate(masks)}
        self.continuing = torch.tensor(list(masks.values()), dtype=torch.bool)
        self.rows = torch.tensor([rows.get(id(mask), -1) for mask in continuing or [None] * len(prefixes)])

    def __call__(self, log_probs: Tensor, histories: Tensor, sources: Tensor) -> Tensor:
        """Set all but the prefix's next token to -inf, and right after the prefix the tokens that continue its word."""
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


class WithoutTokens(WrappedScorer[State]):
    """A scorer that makes some tokens impossible and leaves the other log-probabilities as they are."""

    def __init__(self, scorer: Scorer[State], tokens: Sequence[int]) -> None:
        super().__init__(scorer)
        self.tokens = list(tokens)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, state = self.scorer.step(tokens, state)
        # In place, without a copy of [N, V]: nobody else reads a step's log-probabilities.
        for token in self.tokens:
            log_probs[:, token] = -math.inf
        return log_probs, state


def marked(log_probs: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Return a mask [N, V] of each row's tokens [N, M] that are ``chosen`` [N, M]."""
    counts = torch.zeros_like(log_probs, dtype=torch.int32)
    # Added and not written: of two writes for a token that comes twice, chosen and not chosen, either could win.
    return counts.scatter_add(1, tokens, chosen.int()) > 0
