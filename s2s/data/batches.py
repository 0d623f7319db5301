"""From examples to the batches of each update: tokens, length buckets, a budget, and the dealing out to processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from s2s.batch import Batch, collate, without_weight
from s2s.data.rows import Example
from s2s.data.sources import PLAIN, Labelling, encode_sources
from s2s.errors import UserError
from s2s.seeds import seed_of
from s2s.vocabulary import Vocabulary

Indices = NDArray[numpy.int64]
BUCKET = 64
"""How many updates' worth of shuffled examples are sorted by length together."""
SOURCE_BIN = 8
"""Sources within so many tokens of one another count as equally long, so that targets can be sorted too."""


class Tokens(NamedTuple):
    """The examples of a split as ids: sources with begin and end, targets with neither.

    ``heads`` holds for each head the labels of each example. ``has_targets`` is False in a set without targets.
    """

    sources: list[list[int]]
    targets: list[list[int]]
    report: list[str]
    heads: tuple[list[list[int]], ...] = ()
    has_targets: bool = True

    def lengths(self) -> NDArray[numpy.int64]:
        """[examples, 2]: columns that each example needs in source and in target."""
        end = int(self.has_targets)
        return numpy.array([(len(x), len(y) + end) for x, y in zip(self.sources, self.targets, strict=True)])

    def batch(self, indices: Indices, vocabulary: Vocabulary, seed: int = 0, epoch: int = 0) -> Batch:
        """The batch of the given examples; what is drawn for them depends on seed and epoch."""
        pairs = [(self.sources[index], self.targets[index] if self.has_targets else None) for index in indices]
        seeds = [seed_of(seed, "example", epoch, int(index)) for index in indices]
        heads = [[rows[index] for index in indices] for rows in self.heads]
        return collate(pairs, vocabulary.padding, vocabulary.end, seeds, heads)


def tokenise(
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    max_source: int,
    max_target: int,
    name: str,
    labelling: Labelling = PLAIN,
) -> Tokens:
    """Turn examples into ids, at most ``max_source`` and ``max_target`` long with their special ids, and count cuts."""
    given = [labelling.tokens(example) if labelling.tokens else example.source for example in examples]
    sources, report = encode_sources(given, vocabulary, max_source)
    whole = vocabulary.encode_all([example.target for example in examples])
    targets = [ids[: max_target - 1] for ids in whole]
    if cut := sum(len(ids) > max_target - 1 for ids in whole):
        report.append(f"{cut} of {len(examples)} targets cut to {max_target} tokens")
    rows = list(zip(examples, sources, targets, strict=True))
    heads = tuple([labeller(*row) for row in rows] for labeller in labelling.heads)
    has_targets = any(example.target for example in examples)
    lines = [f"{name}: {line}" for line in report]
    return Tokens([source.ids for source in sources], targets, lines, heads, has_targets)


def updates(lengths: NDArray[numpy.int64], budget: int, seed: int, epoch: int) -> list[Indices]:
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


def by_length(lengths: NDArray[numpy.int64]) -> Indices:
    """An order of lengths [examples, 2] in which neighbours are alike in both.

    By bins of the source's length, and within a bin by the target's, up in one bin and down in the next.
    """
    bins = lengths[:, 0] // SOURCE_BIN
    targets = numpy.where(bins % 2 == 0, lengths[:, 1], -lengths[:, 1])
    return numpy.lexsort((targets, bins))


def _cut(indices: Indices, lengths: NDArray[numpy.int64], budget: int) -> Iterator[Indices]:
    """Cut a run of examples where the padded size would pass the budget."""
    start, longest = 0, numpy.zeros(2, dtype=numpy.int64)
    for position, index in enumerate(indices):
        widened = numpy.maximum(longest, lengths[index])
        if position > start and widened.sum() * (position - start + 1) > budget:
            yield indices[start:position]
            start, widened = position, lengths[index]
        longest = widened
    yield indices[start:]


def real_share(lengths: NDArray[numpy.int64], plan: Sequence[Indices]) -> float:
    """The share of the columns of a plan's updates, each padded as one batch, that hold tokens."""
    padded = sum(int(lengths[indices].max(axis=0).sum()) * len(indices) for indices in plan)
    return float(lengths.sum()) / padded


class Place(NamedTuple):
    """Where in the data an update stands."""

    epoch: int
    examples: Indices


def schedule(lengths: NDArray[numpy.int64], budget: int, seed: int, start: int) -> Iterator[Place]:
    """The updates from step ``start`` on, epoch after epoch, without end."""
    if not len(lengths):
        raise UserError("the train split has no examples")
    epoch = 0
    while True:
        plan = updates(lengths, budget, seed, epoch)
        yield from (Place(epoch, examples) for examples in plan[start:])
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
    place: Place, tokens: Tokens, vocabulary: Vocabulary, processes: int, accumulate: int, process: int, seed: int
) -> list[Batch]:
    """One process's batches of an update."""
    batches = []
    for indices, counts in deal(place.examples, processes, accumulate, process):
        batch = tokens.batch(indices, vocabulary, seed, place.epoch)
        batches.append(batch if counts else without_weight(batch))
    return batches
