"""The batches of each update: examples bucketed by length, cut to a token budget and dealt out to processes."""

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
"""Updates per bucket, whose examples are sorted by length together. A larger bucket pads less and shuffles less."""
SOURCE_BIN = 8
"""Width, in tokens, of the bins in which sources count as equally long, so that targets can be sorted too."""


def updates(lengths: Lengths, budget: int, seed: int, epoch: int) -> list[Indices]:
    """Return the examples of each update of an epoch, a function of (seed, epoch) alone.

    Examples are shuffled, sorted by length within buckets, and cut into updates that have at most ``budget`` columns
    of source and target together when padded as one batch; then the updates are shuffled. A single example beyond the
    budget is an update by itself. Within an update, examples of similar length are neighbours.
    """
    random = numpy.random.default_rng(seed_of(seed, "order", epoch))
    order = random.permutation(len(lengths))
    bucket = max(1, round(BUCKET * budget / lengths.sum(axis=1).mean()))
    plan: list[Indices] = []
    for start in range(0, len(order), bucket):
        chosen = order[start : start + bucket]
        plan.extend(_cut(chosen[by_length(lengths[chosen])], lengths, budget))
    # Shuffled once more, because the updates of a bucket are in the order of their lengths.
    return [plan[index] for index in random.permutation(len(plan))]


def by_length(lengths: Lengths) -> Indices:
    """Return an order of lengths [examples, 2] in which neighbours are similar in both.

    By bins of the source's length, and within a bin by the target's, rising in one bin and falling in the next.
    """
    bins = lengths[:, 0] // SOURCE_BIN
    # Rising and falling by turns keeps neighbours similar also where one bin ends and the next begins.
    targets = numpy.where(bins % 2 == 0, lengths[:, 1], -lengths[:, 1])
    return numpy.lexsort((targets, bins))


def _cut(indices: Indices, lengths: Lengths, budget: int) -> Iterator[Indices]:
    """Cut sorted examples where the padded size would exceed the budget."""
    start = source = target = 0
    # tolist, because a loop over NumPy's own numbers takes ten times as long for a million examples.
    for position, (next_source, next_target) in enumerate(lengths[indices].tolist()):
        source, target = max(source, next_source), max(target, next_target)
        if position > start and (source + target) * (position - start + 1) > budget:
            yield indices[start:position]
            start, source, target = position, next_source, next_target
    yield indices[start:]


def real_share(lengths: Lengths, plan: Sequence[Indices]) -> float:
    """Return the share of columns that hold tokens when each update of a plan is padded as one batch."""
    padded = sum(int(lengths[indices].max(axis=0).sum()) * len(indices) for indices in plan)
    return float(lengths.sum()) / padded


class UpdateBatch(NamedTuple):
    """The epoch and the examples of an update."""

    epoch: int
    examples: Indices


def data_order(lengths: Lengths, budget: int, seed: int, start: int) -> Iterator[UpdateBatch]:
    """Yield the updates from step ``start`` on, epoch after epoch, without end."""
    if not len(lengths):
        raise UserError("the train split has no examples")
    epoch = 0
    while True:
        plan = updates(lengths, budget, seed, epoch)
        yield from (UpdateBatch(epoch, examples) for examples in plan[start:])
        start = max(0, start - len(plan))
        epoch += 1


def deal(examples: Indices, processes: int, accumulate: int, process: int) -> list[tuple[Indices, bool]]:
    """Return one process's micro-batches of an update: the indices of each, and whether it counts.

    The update is cut into processes x accumulate runs of equal size.
    """
    # Collective operations need the same number of passes in every process. Where there are fewer examples than runs,
    # an empty run borrows the first example, and gets no weight.
    runs = numpy.array_split(examples, processes * accumulate)[process::processes]
    return [(run, True) if len(run) else (examples[:1], False) for run in runs]


def micro_batches(
    update: UpdateBatch,
    tokens: TokenisedSplit,
    vocabulary: Vocabulary,
    processes: int,
    accumulate: int,
    process: int,
    seed: int,
) -> list[Batch]:
    """Return one process's batches of an update."""
    batches = []
    for indices, counts in deal(update.examples, processes, accumulate, process):
        batch = tokens.batch(indices, vocabulary, seed, update.epoch)
        batches.append(batch if counts else without_weight(batch))
    return batches
