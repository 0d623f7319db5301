"""Teacher-forced against free-running accuracy along a text: does the distance grow?

The level of the gap says little: one reference is not the only right text. What accumulates shows in its slope over
relative position, beside the slope that teacher forcing has itself, which is the language's (Wu et al., "Beyond Error
Propagation in Neural Machine Translation: Characteristics of Language Also Matter", 2018).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from s2s.diagnose.alignment import KINDS, align, correct
from s2s.diagnose.traces import Integers, Pair, Trace, run_free, trace, trace_free
from s2s.metrics.bootstrap import Numbers, mean
from s2s.model import PrefixTransformer
from s2s.vocabulary import Vocabulary

BINS = 5
"""Parts of a text from its beginning to its end."""


class Gap(NamedTuple):
    """Sums of N sentences by relative position; the last axis is (correct tokens, nats, nats of entropy, tokens)."""

    forced: Numbers  # [N, bins, 4] of gold tokens behind gold prefixes; correct: the likeliest token is gold
    free: Numbers  # [N, bins, 4] of the model's own greedy tokens; correct: aligned with its like in gold
    same_place: Numbers  # [N, 2] own tokens that equal gold's token of the same number, and own tokens: for ``mean``
    edits: Numbers  # [N, 4] correct, substituted, inserted and deleted tokens of the free texts

    def statistics(self) -> Numbers:
        """Sums [N, F] for the measures of this module and their tests."""
        return np.stack([self.forced, self.free], axis=1).reshape(len(self.forced), -1)


def gap(
    model: PrefixTransformer, vocabulary: Vocabulary, pairs: Sequence[Pair], max_length: int, size: int = 32
) -> Gap:
    """Measure a model in evaluation mode on gold pairs; it writes at most ``max_length`` tokens."""
    sources = [source for source, _ in pairs]
    free = run_free(model, vocabulary, sources, max_length, size)
    return compare(trace(model, vocabulary, pairs, size), trace_free(model, vocabulary, sources, free, size))


def compare(forced: Sequence[Trace], free: Sequence[Trace], bins: int = BINS) -> Gap:
    """The gap between traces of gold targets and of free texts for the same sources, ends included."""
    rights = [correct(own.tokens.tolist(), gold.tokens.tolist()) for own, gold in zip(free, forced, strict=True)]
    return Gap(
        np.stack([_binned(gold, gold.best == gold.tokens, bins) for gold in forced]),
        np.stack([_binned(own, right, bins) for own, right in zip(free, rights, strict=True)]),
        np.array([_same_place(own.tokens, gold.tokens) for own, gold in zip(free, forced, strict=True)], dtype=float),
        np.array([_edits(own.tokens, gold.tokens) for own, gold in zip(free, forced, strict=True)], dtype=float),
    )


def accuracies(sums: Numbers) -> tuple[Numbers, Numbers]:
    """Teacher-forced and free-running accuracy [..., bins], from sums of ``Gap.statistics``; NaN without tokens."""
    forced, free = _sides(sums)
    return mean(forced[..., [0, 3]]), mean(free[..., [0, 3]])


def costs(sums: Numbers) -> tuple[Numbers, Numbers]:
    """Teacher-forced and free-running negative log-likelihood a token [..., bins], in nats."""
    forced, free = _sides(sums)
    return mean(forced[..., [1, 3]]), mean(free[..., [1, 3]])


def entropies(sums: Numbers) -> tuple[Numbers, Numbers]:
    """Teacher-forced and free-running entropy of the next token [..., bins], in nats."""
    forced, free = _sides(sums)
    return mean(forced[..., [2, 3]]), mean(free[..., [2, 3]])


def eb_slope(sums: Numbers) -> Numbers:
    """How much the gap of accuracies grows from the beginning of a text to its end: the headline of this measure."""
    forced, free = accuracies(sums)
    return slope(forced - free)


def language_slope(sums: Numbers) -> Numbers:
    """How much the negative log-likelihood of gold behind gold prefixes grows along a text, in nats: the control."""
    return slope(costs(sums)[0])


def slope(values: Numbers) -> Numbers:
    """The slope [...] of the least-squares line through values [..., bins] over relative position in [0, 1]."""
    bins = values.shape[-1]
    places = (np.arange(bins) + 0.5) / bins
    centred = places - places.mean()
    found: Numbers = (values * centred).sum(axis=-1) / (centred**2).sum()
    return found


def _sides(sums: Numbers) -> tuple[Numbers, Numbers]:
    both = sums.reshape(*sums.shape[:-1], 2, -1, 4)
    return both[..., 0, :, :], both[..., 1, :, :]


def _binned(one: Trace, right: Sequence[bool] | np.ndarray, bins: int) -> Numbers:
    """Sums [bins, 4] of a trace; a token lies where its middle does."""
    sums, tokens = np.zeros((bins, 4)), len(one.tokens)
    places = ((np.arange(tokens) + 0.5) * bins / max(tokens, 1)).astype(int)
    np.add.at(sums, places, np.stack([right, -one.log_probs, one.entropies, np.ones(tokens)], axis=1))
    return sums


def _same_place(own: Integers, gold: Integers) -> tuple[int, int]:
    shared = min(len(own), len(gold))
    return int((own[:shared] == gold[:shared]).sum()), len(own)


def _edits(own: Integers, gold: Integers) -> list[int]:
    kinds = [edit.kind for edit in align(own.tolist(), gold.tolist())]
    return [kinds.count(kind) for kind in KINDS]
