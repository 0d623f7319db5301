"""What a wrong prefix costs the tokens behind it, and how soon a model recovers: the headline of a diagnosis.

delta(d) = NLL(y_{k+d} | x, c(y_1..k), y_{k+1} .. y_{k+d-1}) - NLL(y_{k+d} | x, y_1 .. y_{k+d-1}), in nats, where c
corrupts the first k tokens of a gold target. The damage is the sum of delta(d) over d, each a mean over sentences.
Every corrupted copy of a target is decoded behind the same encoded source.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from s2s.batch import IGNORED, Batch, pad
from s2s.diagnose.corruptions import CORRUPTIONS, Prefix, corrupt, other_target
from s2s.diagnose.traces import Integers, OnProgress, Pair, batches, no_progress
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Measure, Numbers, mean
from s2s.mitigations.replacement_pools import plain_ids, special_ids
from s2s.model import PrefixTransformer
from s2s.vocabulary import Vocabulary

Ids = Sequence[int]
NO_TOKEN = -1


class Recovery(NamedTuple):
    """Deltas of N sentences under corruptions of their first tokens."""

    corruptions: tuple[str, ...]
    prefixes: tuple[int, ...]  # numbers k of corrupted tokens
    deltas: Numbers  # [corruptions, prefixes, N, distances], nats; NaN where there is no such token or corruption
    clean: Numbers  # [N, 2] nats of the gold target behind gold prefixes, and its tokens: for ``mean``
    damaged: Integers  # [corruptions, prefixes, N, longest] ids of the corrupted prefixes; NO_TOKEN behind them

    @property
    def measure(self) -> Measure:
        """The damage, in nats, from ``statistics``."""
        return partial(damage, distances=self.deltas.shape[3])

    def statistics(self, corruptions: Collection[str], prefixes: Collection[int] | None = None) -> Numbers:
        """Sums [N, F] of each sentence, of these corruptions and numbers of tokens, for ``measure`` and its tests."""
        rows = [place for place, name in enumerate(self.corruptions) if name in corruptions]
        columns = [place for place, length in enumerate(self.prefixes) if prefixes is None or length in prefixes]
        chosen = np.moveaxis(self.deltas[np.ix_(rows, columns)], 2, 0)
        return np.stack([np.nan_to_num(chosen), ~np.isnan(chosen)], axis=-1).reshape(len(chosen), -1)

    def curve(self, corruption: str, length: int) -> Numbers:
        """The mean delta at each distance; NaN where there is none."""
        sums = self.statistics([corruption], [length]).sum(axis=0)
        return mean(sums.reshape(-1, 2))

    def sentences(self, corruption: str, length: int) -> int:
        """How many sentences the corruption has changed."""
        place = self.corruptions.index(corruption), self.prefixes.index(length)
        return int((~np.isnan(self.deltas[place])).any(axis=1).sum())


def damage(sums: Numbers, distances: int) -> Numbers:
    """The sum over distances of the mean delta, averaged over corruptions and numbers of tokens, in nats.

    Distances without a token are left out, corruptions without a sentence as well; NaN where nothing is left.
    """
    each = sums.reshape(*sums.shape[:-1], -1, distances, 2)
    deltas, there = np.nan_to_num(mean(each)), each[..., 1] > 0
    areas, counted = deltas.sum(axis=-1), there.any(axis=-1)
    return mean(np.stack([areas.sum(axis=-1), counted.sum(axis=-1)], axis=-1))


def half_life(curve: Numbers) -> int | None:
    """The first distance at which a curve is at most half of what it is at distance 1.

    None where that is beyond the curve, or where there is no damage at distance 1 to halve.
    """
    if not curve[0] > 0:
        return None
    below = np.flatnonzero(curve <= curve[0] / 2)
    return int(below[0]) + 1 if below.size else None


@torch.no_grad()
def recovery(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    prefixes: Sequence[int] = (2, 5, 10),
    distances: int = 10,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> Recovery:
    """Measure a model in evaluation mode on gold pairs; a target shorter than k + 1 tokens has no prefix of k.

    The deltas count the target's end as a token. A corrupted copy is no longer than the clean target, so where a token
    is doubled the end falls out. ``size`` sources are read together.
    """
    targets = [target for _, target in pairs]
    deltas = np.full((len(corruptions), len(prefixes), len(pairs), distances), np.nan)
    clean = np.zeros((len(pairs), 2))
    damaged = np.full((*deltas.shape[:3], max(prefixes) + 1), NO_TOKEN)  # doubling makes it longer by one
    for indices, batch in batches(vocabulary, pairs, size, model.output_bias.device, on_progress):
        passes = Passes(model, 0.0, model)
        costs, greedy = _gold(passes, batch, vocabulary)
        clean[indices] = np.stack([np.nansum(costs, axis=1), (~np.isnan(costs)).sum(axis=1)], axis=1)
        for place, length in enumerate(prefixes):
            copies = _corrupted(indices, targets, greedy, length, corruptions, seed, plain_ids(vocabulary).tolist())
            for damage_of, example in zip(copies, indices, strict=True):
                for row, one in enumerate(damage_of):
                    tokens = [] if one is None else one[0]
                    damaged[row, place, example, : len(tokens)] = tokens
            after = _after(passes, batch, copies, length, distances)
            deltas[:, place, indices] = after - _window(costs, length, distances)
    return Recovery(tuple(corruptions), tuple(prefixes), deltas, clean, damaged)


def _gold(passes: Passes, batch: Batch, vocabulary: Vocabulary) -> tuple[Numbers, Integers]:
    """The costs [B, T] of gold tokens in nats, NaN where there is none, and the likeliest plain tokens [B, T]."""
    scores, there = passes.score(batch), (batch.labels != IGNORED).cpu().numpy()
    costs = np.full(there.shape, np.nan)
    costs[there] = -scores.log_probs().double().cpu().numpy()
    greedy = np.zeros(there.shape, dtype=np.int64)
    barred = special_ids(vocabulary).to(scores.logits.device)
    greedy[there] = scores.logits.index_fill(1, barred, -torch.inf).argmax(dim=1).cpu().numpy()
    return costs, greedy


def _corrupted(
    indices: Integers,
    targets: Sequence[Ids],
    greedy: Integers,
    length: int,
    corruptions: Sequence[str],
    seed: int,
    plain: Ids,
) -> list[list[tuple[Ids, Ids] | None]]:
    """For each corruption of each example its prefix and the whole gold target; None where there is none."""
    found: list[list[tuple[Ids, Ids] | None]] = []
    for index, likeliest in zip(indices.tolist(), greedy.tolist(), strict=True):
        target, row = targets[index], list[tuple[Ids, Ids] | None]()
        prefix = Prefix(target, length, other_target(targets, index, length, seed), likeliest, plain)
        for name in corruptions:
            tokens = corrupt(name, prefix, seed, index) if len(target) > length else None
            row.append(None if tokens is None else (tokens, target))
        found.append(row)
    return found


def _after(
    passes: Passes, batch: Batch, copies: Sequence[Sequence[tuple[Ids, Ids] | None]], length: int, distances: int
) -> Numbers:
    """The costs [corruptions, B, distances] of the tokens behind each corrupted prefix."""
    end, device = int(batch.target[0, 0]), batch.target.device
    rows = [_copy(one, length, distances, end) for row in copies for one in row]
    shape = len(copies), -1
    packed = batch._replace(
        target=pad([inputs for inputs, _ in rows], end).view(shape).to(device),
        labels=pad([labels for _, labels in rows], IGNORED).view(shape).to(device),
    )
    log_probs = iter(passes.score(packed, copies=len(copies[0])).log_probs().tolist())
    after = np.full((len(rows), distances), np.nan)
    for place, (_, labels) in enumerate(rows):
        count = sum(label != IGNORED for label in labels)
        after[place, :count] = [-next(log_probs) for _ in range(count)]
    return after.reshape(len(copies), -1, distances).swapaxes(0, 1)


def _copy(one: tuple[Ids, Ids] | None, length: int, distances: int, end: int) -> tuple[Ids, Ids]:
    """Decoder inputs and labels of a corrupted copy: only tokens behind the prefix have labels."""
    if one is None:
        return [end], [IGNORED]
    tokens, target = one
    inputs = [end, *tokens, *target[length : length + distances - 1]]
    labels = [*[IGNORED] * len(tokens), *[*target, end][length : length + distances]]
    return inputs[: len(target) + 1], labels[: len(target) + 1]


def _window(costs: Numbers, length: int, distances: int) -> Numbers:
    """The costs [B, distances] of the tokens behind the first so many; NaN where there are no more."""
    wide = np.pad(costs, ((0, 0), (0, length + distances)), constant_values=np.nan)
    return wide[:, length : length + distances]
