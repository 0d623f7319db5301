"""The cost of a wrong prefix for the tokens after it, and how soon the model recovers: the headline of a diagnosis.

delta(d) = NLL(y_{k+d} | x, c(y_1..k), y_{k+1} .. y_{k+d-1}) - NLL(y_{k+d} | x, y_1 .. y_{k+d-1}), in nats, where c
corrupts the first k tokens of a gold target. The damage is the sum of delta(d) over d, each a mean over sentences.
"""

from collections.abc import Collection, Sequence
from functools import partial

import numpy as np
import torch

from s2s.batch import IGNORED, Batch, pad
from s2s.diagnose.corruptions import CORRUPTIONS, Prefix, corrupt, other_target
from s2s.diagnose.measurements import Measurements, Plain, Quantity, Recovery
from s2s.diagnose.traces import Integers, OnProgress, Pair, batches, no_progress
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Numbers, mean, weighted
from s2s.mitigations.prefix_noise import only, plain_ids
from s2s.model.backbone import Backbone
from s2s.vocabulary import Vocabulary

Ids = Sequence[int]
NO_TOKEN = -1


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return the damage by groups of corruptions, and the clean cost, which mitigations must not buy it with."""
    unseen = held_out(runs)
    others = [name for name in runs[0].recovery.corruptions if name not in unseen and name != "own_errors"]
    # A corruption that one run has seen is held out for no run: all methods are compared on the same ones.
    groups = [
        ("damage_held_out", "damage under held-out corruptions", unseen),
        ("damage_own_errors", "damage under the model's own errors", ["own_errors"]),
        ("damage_seen", "damage under corruptions that a run was trained on", others),
    ]
    damages = [_damage(key, title, names, runs) for key, title, names in groups if names]
    clean = Quantity(
        "clean_cost", "cost of gold after gold prefixes", "nats/token", "lower", lambda run: run.recovery.clean, mean
    )
    return [*damages, clean]


def by_corruption(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return the damage under each corruption by itself."""
    return [_damage(f"damage_{name}", f"damage: {name}", [name], runs) for name in runs[0].recovery.corruptions]


def _damage(key: str, title: str, names: Collection[str], runs: Sequence[Measurements]) -> Quantity:
    value = partial(damage, distances=runs[0].recovery.deltas.shape[3])
    return Quantity(key, title, "nats", "lower", lambda run: statistics(run.recovery, names), value)


def held_out(runs: Sequence[Measurements]) -> tuple[str, ...]:
    """Return the corruptions that no run has seen, without the runs' own errors, which are a quantity of their own."""
    names = runs[0].recovery.corruptions
    return tuple(name for name in names if name != "own_errors" and not any(name in run.seen for run in runs))


def statistics(recovery: Recovery, corruptions: Collection[str], prefixes: Collection[int] | None = None) -> Numbers:
    """Sum each sentence, [N, F], under these corruptions of these numbers of tokens, for ``damage`` and its tests."""
    rows = [row for row, name in enumerate(recovery.corruptions) if name in corruptions]
    columns = [column for column, length in enumerate(recovery.prefixes) if prefixes is None or length in prefixes]
    chosen = np.moveaxis(recovery.deltas[np.ix_(rows, columns)], 2, 0)
    return weighted(chosen).reshape(len(chosen), -1)


def damage(sums: Numbers, distances: int) -> Numbers:
    """Sum the mean deltas over distances, and average over corruptions and numbers of tokens, in nats.

    Distances without a token are left out, corruptions without a sentence as well; NaN where nothing is left.
    """
    split = sums.reshape(*sums.shape[:-1], -1, distances, 2)
    deltas, counted = np.nan_to_num(mean(split)), (split[..., 1] > 0).any(axis=-1)
    # Areas are averaged, not tokens: a corruption that applies to few sentences counts as much as the others.
    return mean(np.stack([deltas.sum(axis=-1).sum(axis=-1), counted.sum(axis=-1)], axis=-1))


def details(run: Measurements) -> Plain:
    """Return each corruption's mean delta by distance, by numbers of damaged tokens and averaged over them."""
    return {name: _curves(run.recovery, name) for name in run.recovery.corruptions}


def _curves(recovery: Recovery, name: str) -> Plain:
    curves = {length: curve(recovery, name, length) for length in recovery.prefixes}
    average = mean(weighted(list(curves.values())).sum(axis=0))
    lengths = {
        str(length): {"curve": deltas, "sentences": sentences(recovery, name, length)}
        for length, deltas in curves.items()
    }
    return {"curve": average, "half_life": half_life(average), "prefixes": lengths}


def curve(recovery: Recovery, corruption: str, length: int) -> Numbers:
    """Return the mean delta at each distance; NaN where there is none."""
    return mean(statistics(recovery, [corruption], [length]).sum(axis=0).reshape(-1, 2))


def sentences(recovery: Recovery, corruption: str, length: int) -> int:
    """Count the sentences that the corruption has changed."""
    deltas = recovery.deltas[recovery.corruptions.index(corruption), recovery.prefixes.index(length)]
    return int((~np.isnan(deltas)).any(axis=1).sum())


def half_life(curve: Numbers) -> int | None:
    """Return the first distance at which a curve is at most half of its value at distance 1.

    None where that is beyond the curve, or where there is no damage at distance 1 to halve.
    """
    if not curve[0] > 0:
        return None
    below = np.flatnonzero(curve <= curve[0] / 2)
    return int(below[0]) + 1 if below.size else None


@torch.no_grad()
def measure_recovery(
    model: Backbone,
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
    is doubled the end drops out. ``size`` sources are read together, and each is encoded once for all corrupted copies.
    """
    targets, plain = [target for _, target in pairs], plain_ids(vocabulary).tolist()
    deltas = np.full((len(corruptions), len(prefixes), len(pairs), distances), np.nan)
    clean = np.zeros((len(pairs), 2))
    damaged = np.full((*deltas.shape[:3], max(prefixes) + 1), NO_TOKEN)  # doubling makes it longer by one
    for indices, batch in batches(vocabulary, pairs, size, model.device, on_progress):
        passes = Passes(model, 0.0, model)
        costs, greedy = _gold(passes, batch, vocabulary)
        clean[indices] = np.stack([np.nansum(costs, axis=1), (~np.isnan(costs)).sum(axis=1)], axis=1)
        for column, length in enumerate(prefixes):
            copies = []
            for index, likeliest in zip(indices.tolist(), greedy.tolist(), strict=True):
                target = targets[index]
                prefix = Prefix(target, length, other_target(targets, index, length, seed), likeliest, plain)
                for row, name in enumerate(corruptions):
                    tokens = corrupt(name, prefix, seed, index) if len(target) > length else None
                    copies.append(_copy(tokens, target, length, distances, vocabulary))
                    damaged[row, column, index, : len(tokens or ())] = tokens or ()
            after = _costs_after(passes, batch, copies, distances)
            deltas[:, column, indices] = after.swapaxes(0, 1) - _window(costs, length, distances)
    return Recovery(tuple(corruptions), tuple(prefixes), deltas, clean, damaged)


def _gold(passes: Passes, batch: Batch, vocabulary: Vocabulary) -> tuple[Numbers, Integers]:
    """Return the costs [B, T] of gold tokens in nats, NaN after the end, and the likeliest plain tokens [B, T]."""
    scores, valid = passes.score(batch), (batch.labels != IGNORED).cpu().numpy()
    costs = np.full(valid.shape, np.nan)
    costs[valid] = -scores.log_probs().double().cpu().numpy()
    greedy = np.zeros(valid.shape, dtype=np.int64)
    # No gold prefix holds special tokens, and an early end would leave nothing to continue.
    greedy[valid] = only(scores.logits, plain_ids(vocabulary)).argmax(dim=1).cpu().numpy()
    return costs, greedy


def _copy(tokens: Ids | None, target: Ids, length: int, distances: int, vocabulary: Vocabulary) -> tuple[Ids, Ids]:
    """Return decoder inputs and labels of a target after a corrupted prefix, which itself has no labels.

    Without a corrupted prefix the copy has no label at all, so that the copies of a batch stay a rectangle.
    """
    if tokens is None:
        return [vocabulary.start], [IGNORED]
    inputs = [vocabulary.start, *tokens, *target[length : length + distances - 1]]
    labels = [*[IGNORED] * len(tokens), *[*target, vocabulary.end][length : length + distances]]
    # The position after the clean target may be beyond the model's table of positions.
    return inputs[: len(target) + 1], labels[: len(target) + 1]


def _costs_after(passes: Passes, batch: Batch, copies: Sequence[tuple[Ids, Ids]], distances: int) -> Numbers:
    """Return the costs [B, corruptions, distances] of the labels of a batch's copies; NaN where there are fewer."""
    device, shape = batch.target.device, (len(batch.target), -1)
    packed = batch._replace(
        target=pad([inputs for inputs, _ in copies], int(batch.target[0, 0])).view(shape).to(device),
        labels=pad([labels for _, labels in copies], IGNORED).view(shape).to(device),
    )
    # Scores exist for valid labels alone, in the order of the rows: an iterator deals them out again.
    log_probs = iter(passes.score(packed, copies=len(copies) // len(batch.target)).log_probs().tolist())
    costs = np.full((len(copies), distances), np.nan)
    for row, (_, labels) in zip(costs, copies, strict=True):
        for distance in range(sum(label != IGNORED for label in labels)):
            row[distance] = -next(log_probs)
    return costs.reshape(len(batch.target), -1, distances)


def _window(costs: Numbers, length: int, distances: int) -> Numbers:
    """Return the costs [B, distances] of the tokens after the first ``length``; NaN where there are no more."""
    # Padded first, so that the slice has its whole width for the shortest targets too.
    wide = np.pad(costs, ((0, 0), (0, length + distances)), constant_values=np.nan)
    return wide[:, length : length + distances]
