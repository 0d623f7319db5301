"""N-grams and longest common subsequences of token sequences, and the ROUGE of two sequences (Lin, 2004)."""

from collections import Counter
from collections.abc import Hashable, Sequence

Tokens = Sequence[Hashable]


def ngrams(tokens: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    """Return the n-grams of a sequence in order. Raises ``ValueError`` for ``n`` below 1."""
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 token, not {n}")
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


class CommonSubsequences:
    """Lengths of the longest common subsequences (LCS) of all prefixes of two sequences.

    Source: Hyyrö, "Bit-Parallel LCS-length Computation Revisited", 2004.
    """

    def __init__(self, first: Tokens, second: Tokens) -> None:
        # A row of the usual table is one integer: bit i is 0 where the LCS with first[:i + 1] is longer than with
        # first[:i]. The carry of one addition then does the work of a whole row.
        positions: dict[Hashable, int] = {}
        for index, token in enumerate(first):
            positions[token] = positions.get(token, 0) | 1 << index
        self.sizes = len(first), len(second)
        row = every = (1 << len(first)) - 1
        self.rows = [row]
        for token in second:
            matches = row & positions.get(token, 0)
            row = (row + matches | row - matches) & every
            self.rows.append(row)

    def length(self, i: int, j: int) -> int:
        """Return the length of the LCS of first[:i] and second[:j]."""
        return i - (self.rows[j] & (1 << i) - 1).bit_count()

    def pairs(self) -> list[tuple[int, int]]:
        """Return the index pairs of an LCS, in order; of several, the one that ends earliest in both sequences."""
        (i, j), pairs = self.sizes, []
        while length := self.length(i, j):
            if self.length(i - 1, j) == length:
                i -= 1
            elif self.length(i, j - 1) == length:
                j -= 1
            else:
                i, j = i - 1, j - 1
                pairs.append((i, j))
        return pairs[::-1]


def rouge_n(hypothesis: Tokens, reference: Tokens, n: int) -> float:
    """Return the F1 of the n-grams two sequences share, each counted at most as often as in the other.

    In [0, 1]; 0 where either has no n-gram. Raises ``ValueError`` for ``n`` below 1.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 2.
    """
    first, second = Counter(ngrams(hypothesis, n)), Counter(ngrams(reference, n))
    return _f1((first & second).total(), first.total(), second.total())


def rouge_l(hypothesis: Tokens, reference: Tokens) -> float:
    """Return the F1 of the longest common subsequence of two sequences.

    In [0, 1]; 0 where either is empty. Precision is LCS / hypothesis length, recall LCS / reference length.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1, with beta = 1.
    """
    table = CommonSubsequences(hypothesis, reference)
    return _f1(table.length(*table.sizes), *table.sizes)


def _f1(overlap: int, hypothesis_total: int, reference_total: int) -> float:
    # 2 P R / (P + R) with P = overlap / hypothesis_total and R = overlap / reference_total.
    return 2 * overlap / (hypothesis_total + reference_total) if overlap else 0.0
