"""The quality of greedy texts, and their differences from gold ones as sets: lengths, n-grams, repetition."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from math import log2
from random import Random
from typing import NamedTuple

import numpy as np

from s2s.diagnose.measurements import Measurements, Plain, Quantity
from s2s.metrics.bootstrap import Numbers, mean, weighted
from s2s.metrics.repetition import Tokens, copy_rate, distinct_n, length_ratio, seq_rep_n
from s2s.metrics.sentence import sentence_metric
from s2s.metrics.table import better

ORDERS = (1, 2, 3, 4)


class Divergence(NamedTuple):
    """A Jensen-Shannon divergence in bits, in [0, 1], and the one between two halves of gold.

    Their difference is what the size of the sample does not explain.
    """

    observed: float
    expected: float

    def plain(self) -> Plain:
        """Return the divergence as the report's file has it."""
        return {"found": self.observed, "expected": self.expected}


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:  # noqa: ARG001
    """Return quality, length, repetition and copying of greedy texts."""

    def quality(run: Measurements, metric: Callable[[str, str], float]) -> Numbers:
        return weighted([100 * metric(*pair) for pair in zip(run.hypotheses, run.references, strict=True)])

    def lengths(run: Measurements) -> Numbers:
        pairs = zip(run.free_texts, run.forced, strict=True)
        return np.array([(len(text.ids), len(gold.tokens) - 1) for text, gold in pairs], dtype=float)

    def repeated(run: Measurements) -> Numbers:
        return weighted([seq_rep_n(text.ids, 2) for text in run.free_texts])

    def copied(run: Measurements) -> Numbers:
        pairs = zip(run.free_texts, run.source_ids, strict=True)
        return weighted([copy_rate(text.ids, source, 2) for text, source in pairs])

    chrf, rouge = (partial(quality, metric=sentence_metric(name)) for name in ("chrf", "rouge_l"))
    copying = "tokens copied from the source in runs of 2 or more"
    return [
        Quantity("chrf", "chrF of greedy texts, mean of sentences", "0..100", better("chrf"), chrf, mean),
        Quantity("rouge_l", "ROUGE-L of greedy texts by words", "0..100", better("rouge_l"), rouge, mean),
        Quantity("length_ratio", "tokens of greedy texts over gold's", "ratio", better("length_ratio"), lengths, mean),
        Quantity("repetition", "repeated bigrams (seq-rep-2)", "share", better("seq_rep_2"), repeated, mean),
        Quantity("copying", copying, "share", better("copy_2"), copied, mean),
    ]


def details(run: Measurements, seed: int) -> Plain:
    """Compare greedy texts with gold ones as sets; nothing where there are fewer than 2."""
    if len(run.forced) < 2:
        return {}
    return mismatch([text.ids for text in run.free_texts], [gold.tokens[:-1].tolist() for gold in run.forced], seed)


def mismatch(
    hypotheses: Sequence[Tokens], references: Sequence[Tokens], seed: int = 0, orders: Sequence[int] = ORDERS
) -> Plain:
    """Compare texts with gold ones of the same sources, as lists of tokens; halves of them are drawn by the seed.

    Raises ``ValueError`` for texts that do not pair or are fewer than 2.
    """

    def both(measure: Callable[[Sequence[Tokens]], float]) -> Plain:
        return {"hypotheses": measure(hypotheses), "references": measure(references)}

    sizes = [[[len(text)] for text in texts] for texts in (hypotheses, references)]
    return {
        "length_ratio": length_ratio(hypotheses, references),
        "empty": both(lambda texts: sum(not text for text in texts) / len(texts)),
        "lengths": divergence(sizes[0], sizes[1], 1, seed).plain(),
        "ngrams": {str(n): divergence(hypotheses, references, n, seed).plain() for n in orders},
        "distinct": {str(n): both(partial(distinct_n, n=n)) for n in orders},
        "repeated": {str(n): both(partial(_mean_repetition, n=n)) for n in orders},
    }


def _mean_repetition(texts: Sequence[Tokens], n: int) -> float:
    return sum(seq_rep_n(text, n) for text in texts) / len(texts)


def divergence(hypotheses: Sequence[Tokens], references: Sequence[Tokens], n: int, seed: int = 0) -> Divergence:
    """Return the divergence of two sets' n-grams, and that of gold from gold, over halves of the sentences.

    A divergence of samples is biased upwards, the more the smaller they are. So sentences are dealt into halves, and
    hypotheses of one half are compared with references of the other (the mean of both ways), as references of the one
    are with references of the other.
    """
    if len(hypotheses) != len(references) or len(references) < 2:
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references: at least 2 pairs are needed")
    order = list(range(len(references)))
    Random(seed).shuffle(order)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    texts, gold = ([count_ngrams(side, part, n) for part in halves] for side in (hypotheses, references))
    across = jensen_shannon(texts[0], gold[1]), jensen_shannon(texts[1], gold[0])
    return Divergence(sum(across) / 2, jensen_shannon(*gold))


def count_ngrams(texts: Sequence[Tokens], chosen: Sequence[int], n: int) -> Counter[Hashable]:
    """Count the n-grams of the texts with these numbers."""
    counts: Counter[Hashable] = Counter()
    for index in chosen:
        counts.update(zip(*(texts[index][start:] for start in range(n)), strict=False))
    return counts


def jensen_shannon(first: Counter[Hashable], second: Counter[Hashable]) -> float:
    """Return (KL(p || m) + KL(q || m)) / 2 in bits, m = (p + q) / 2, of two distributions given by counts.

    In [0, 1]; 0 where both are empty, 1 where one is. Source: Lin, "Divergence Measures Based on the Shannon Entropy",
    1991.
    """
    if not (first and second):
        return float(bool(first or second))
    totals, divergence = (first.total(), second.total()), 0.0
    for kind in first.keys() | second.keys():
        p, q = first[kind] / totals[0], second[kind] / totals[1]
        divergence += sum(chance * log2(chance / ((p + q) / 2)) for chance in (p, q) if chance) / 2
    return divergence
