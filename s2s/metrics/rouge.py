"""ROUGE of one hypothesis against one reference, over any tokens (Lin, 2004)."""

from collections import Counter
from collections.abc import Sequence


def rouge_n(hypothesis: Sequence[str], reference: Sequence[str], n: int) -> float:
    """F1 of the n-grams two token sequences share, each counted at most as often as in the other.

    In [0, 1]; 0 where either side has no n-gram. ``n`` below 1 raises ``ValueError``.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 2.
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 token, not {n}")
    first, second = _count_ngrams(hypothesis, n), _count_ngrams(reference, n)
    return _f1((first & second).total(), first.total(), second.total())


def rouge_l(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two token sequences.

    In [0, 1]; 0 where either side is empty. Precision is LCS / hypothesis length, recall LCS / reference length.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.1, with beta = 1.
    """
    return _f1(_longest_common_subsequence(hypothesis, reference), len(hypothesis), len(reference))


def _count_ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _f1(overlap: int, hypothesis_total: int, reference_total: int) -> float:
    if not overlap:
        return 0.0
    # 2 P R / (P + R) with P = overlap / hypothesis_total and R = overlap / reference_total.
    return 2 * overlap / (hypothesis_total + reference_total)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the LCS, a row of the usual table at a time in the bits of one integer (Hyyrö, 2004)."""
    positions: dict[str, int] = {}
    for index, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << index
    every = (1 << len(first)) - 1
    # A bit is 0 where the row of the table grows by one; the sum's carry moves each growth to its first match.
    row = every
    for token in second:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & every
    return len(first) - row.bit_count()
