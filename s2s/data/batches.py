"""From tokens to the batches of each update: length buckets, a budget, and the dealing out to processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy

from s2s.batch import Batch, without_weight
from s2s.data.tokenised import Indices, Lengths, TokenisedSplit, tokenise
from s2s.errors import UserError
from s2s.randomness import seed_of
from s2s.vocabulary import Vocabulary

__all__ = [
    "Indices",
    "TokenisedSplit",
    "UpdateBatch",
    "by_length",
    "data_order",
    "deal",
    "micro_batches",
    "real_share",
    "tokenise",
    "updates",
]

BUCKET = 64
"""How many updates' worth of shuffled examples are sorted by length together."""
SOURCE_BIN = 8
"""Sources within so many tokens of one another count as equally long, so that targets can be sorted too."""


def updates(lengths: Lengths, budget: int, seed: int, epoch: int) -> list[Indices]:
    """The examples of each update of an epoch, a function of (seed, epoch) alone.

    Examples are shuffled, sorted by length within large buckets and cut so that an update, padded as one batch, has
    at most ``budget`` columns of source and target together; then the updates are shuffled. One example beyond the
    budget is an update of its own. Within an update examples of like length stand together.
    """
    random = numpy.random.default_rng(seed_of(seed, "order", epoch))
    order = random.permutation(len(lengths))
    bucket = max(1, round(BUCKET * budget / lengths.sum(axis=1).mean()))
    plan: list[Indices] = []
    for start in range(0, len(order), bucket):
        chosen = order[start : start + bucket]
        plan.extend(_cut(chosen[by_length(lengths[chosen])], lengths, budget))
    return [plan[index] for index in random.permutation(len(plan))]


def by_length(lengths: Lengths) -> Indices:
    """An order of lengths [examples, 2] in which neighbours are alike in both.

    By bins of the source's length, and within a bin by the target's, up in one bin and down in the next.
    """
    bins = lengths[:, 0] // SOURCE_BIN
    targets = numpy.where(bins % 2 == 0, lengths[:, 1], -lengths[:, 1])
    return numpy.lexsort((targets, bins))


def _cut(indices: Indices, lengths: Lengths, budget: int) -> Iterator[Indices]:
    """Cut a run of examples where the padded size would pass the budget."""
    start = source = target = 0
    # Plain numbers: a loop over a million examples in NumPy's would take ten times as long.
    for position, (its_source, its_target) in enumerate(lengths[indices].tolist()):
        source, target = max(source, its_source), max(target, its_target)
        if position > start and (source + target) * (position - start + 1) > budget:
            yield indices[start:position]
            start, source, target = position, its_source, its_target
    yield indices[start:]


def real_share(lengths: Lengths, plan: Sequence[Indices]) -> float:
    """The share of the columns of a plan's updates, each padded as one batch, that hold tokens."""
    padded = sum(int(lengths[indices].max(axis=0).sum()) * len(indices) for indices in plan)
    return float(lengths.sum()) / padded


class UpdateBatch(NamedTuple):
    """Where in the data an update stands."""

    epoch: int
    examples: Indices


def data_order(lengths: Lengths, budget: int, seed: int, start: int) -> Iterator[UpdateBatch]:
    """The updates from step ``start`` on, epoch after epoch, without end."""
    if not len(lengths):
        raise UserError("the train split has no examples")
    epoch = 0
    while True:
        plan = updates(lengths, budget, seed, epoch)
        yield from (UpdateBatch(epoch, examples) for examples in plan[start:])
        start = max(0, start - len(plan))
        epoch += 1


def deal(examples: Indices, processes: int, accumulate: int, process: int) -> list[tuple[Indices, bool]]:
    """One process's micro-batches of an update: the indices and whether they count.

    The update is cut into processes x accumulate even runs. Where there are fewer examples than runs, an idle run
    borrows the update's first example, to be given no weight: every process makes the same number of passes.
    """
    runs = numpy.array_split(examples, processes * accumulate)[process::processes]
    return [(run, True) if len(run) else (examples[:1], False) for run in runs]


def micro_batches(
    place: UpdateBatch,
    tokens: TokenisedSplit,
    vocabulary: Vocabulary,
    processes: int,
    accumulate: int,
    process: int,
    seed: int,
) -> list[Batch]:
    """One process's batches of an update."""
    batches = []
    for indices, counts in deal(place.examples, processes, accumulate, process):
        batch = tokens.batch(indices, vocabulary, seed, place.epoch)
        batches.append(batch if counts else without_weight(batch))
    return batches
