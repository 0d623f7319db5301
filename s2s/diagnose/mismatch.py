"""How generated texts differ from gold ones as sets: lengths, n-grams, repetition."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import log2
from random import Random
from typing import NamedTuple

from s2s.metrics.repetition import Tokens, distinct_n, length_ratio, seq_rep_n

ORDERS = (1, 2, 3, 4)


class Divergence(NamedTuple):
    """A Jensen-Shannon divergence in bits, in [0, 1], and what two halves of gold have between themselves."""

    found: float
    expected: float

    @property
    def excess(self) -> float:
        """What the sample's size does not explain."""
        return self.found - self.expected


class Beside(NamedTuple):
    """A number of the hypotheses and the same of the references."""

    hypotheses: float
    references: float


class Mismatch(NamedTuple):
    """Differences of two sets of texts; by order n where it says so."""

    length_ratio: float
    empty: Beside  # shares of texts without a token
    lengths: Divergence
    ngrams: dict[int, Divergence]
    distinct: dict[int, Beside]
    repeated: dict[int, Beside]  # mean seq-rep-n of the texts


def mismatch(
    hypotheses: Sequence[Tokens], references: Sequence[Tokens], orders: Sequence[int] = ORDERS, seed: int = 0
) -> Mismatch:
    """Compare generated texts with gold ones of the same sources, as lists of tokens; all but one set at the seed.

    Raises ``ValueError`` for texts that do not pair or are fewer than 2.
    """
    both = hypotheses, references
    return Mismatch(
        length_ratio(hypotheses, references),
        Beside(*(sum(not text for text in texts) / len(texts) for texts in both)),
        divergence([[len(text)] for text in hypotheses], [[len(text)] for text in references], 1, seed),
        {n: divergence(hypotheses, references, n, seed) for n in orders},
        {n: Beside(*(distinct_n(texts, n) for texts in both)) for n in orders},
        {n: Beside(*(sum(seq_rep_n(text, n) for text in texts) / len(texts) for texts in both)) for n in orders},
    )


def divergence(hypotheses: Sequence[Tokens], references: Sequence[Tokens], n: int, seed: int = 0) -> Divergence:
    """The divergence of two sets' n-grams beside that of gold from gold, over halves of the sentences.

    A divergence of samples is biased upwards, the more the smaller they are. So sentences are dealt into halves, and
    hypotheses of one half are compared with references of the other (the mean of both ways), as references of the one
    are with references of the other.
    """
    if len(hypotheses) != len(references) or len(references) < 2:
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: at least 2 pairs are needed")
    order = list(range(len(references)))
    Random(seed).shuffle(order)
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    ours, theirs = ([count(texts, part, n) for part in (first, second)] for texts in (hypotheses, references))
    across = jensen_shannon(ours[0], theirs[1]), jensen_shannon(ours[1], theirs[0])
    return Divergence(sum(across) / 2, jensen_shannon(theirs[0], theirs[1]))


def count(texts: Sequence[Tokens], chosen: Sequence[int], n: int) -> Counter[Hashable]:
    """How often the chosen texts have each n-gram."""
    found: Counter[Hashable] = Counter()
    for index in chosen:
        found.update(zip(*(texts[index][start:] for start in range(n)), strict=False))
    return found


def jensen_shannon(ours: Counter[Hashable], theirs: Counter[Hashable], added: float = 0.0) -> float:
    """(KL(p || m) + KL(q || m)) / 2 in bits, m = (p + q) / 2, of counts with ``added`` to each kind that occurs.

    In [0, 1]; 0 where both are empty, 1 where one is. Source: Lin, "Divergence Measures Based on the Shannon Entropy",
    1991.
    """
    kinds = ours.keys() | theirs.keys()
    sums = [side.total() + added * len(kinds) for side in (ours, theirs)]
    if not all(sums):
        return float(any(sums))
    return sum(_part((ours[kind] + added) / sums[0], (theirs[kind] + added) / sums[1]) for kind in kinds)


def _part(p: float, q: float) -> float:
    middle = (p + q) / 2
    return sum(chance * log2(chance / middle) for chance in (p, q) if chance) / 2
