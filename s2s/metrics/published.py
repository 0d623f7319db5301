"""The metrics of Su Jianlin's published tables, as the packages of that time compute them.

Texts are characters joined by blanks and lower-cased, so that a real blank makes empty tokens. ROUGE is that of the
package rouge 1.0.0 with its defaults: texts fall into sentences at ".", ROUGE-1 and -2 count n-grams over the whole
text, and ROUGE-L counts tokens once only, so it is neither LCS / length nor does it see repetition. BLEU is the mean
of NLTK's sentence BLEU with four n-gram orders and smoothing method 1. An empty text scores 0. The rules of
``s2s.metrics.rouge`` and sacrebleu's BLEU are the correct ones.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

METHOD_1 = 0.1
"""What smoothing method 1 counts where no n-gram is shared (Chen and Cherry 2014)."""


class PublishedRouge(NamedTuple):
    """F-measures of rouge 1.0.0 in [0, 1]."""

    rouge_1: float
    rouge_2: float
    rouge_l: float


def spaced(text: str) -> str:
    """The text's characters with blanks between them, lower-cased."""
    return " ".join(text).lower()


def published_rouge(hypothesis: str, reference: str) -> PublishedRouge:
    """What ``rouge.Rouge().get_scores`` of version 1.0.0 calls ``f``, of two texts whose tokens stand between blanks.

    Where that package refuses a text, one that is empty or holds nothing but ".", all are 0.
    """
    found, wanted = _sentences(hypothesis), _sentences(reference)
    if not found or not wanted:
        return PublishedRouge(0.0, 0.0, 0.0)
    pairs = [(_ngrams(found, n), _ngrams(wanted, n)) for n in (1, 2)]
    first, second = (_f((ours & theirs).total(), ours.total(), theirs.total()) for ours, theirs in pairs)
    shared = {token for ours in found for theirs in wanted for token in _common_subsequence(theirs, ours)}
    return PublishedRouge(first, second, _f(len(shared), len(set().union(*found)), len(set().union(*wanted))))


def method1_bleu(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """NLTK's ``sentence_bleu`` with ``SmoothingFunction().method1`` and uniform weights over four orders, in [0, 1]."""
    if set(hypothesis).isdisjoint(set().union(*references)):
        return 0.0
    logs = [math.log(_precision(hypothesis, references, n)) for n in (1, 2, 3, 4)]
    length = len(hypothesis)
    closest = min((len(reference) for reference in references), key=lambda other: (abs(other - length), other))
    brevity = 1.0 if length > closest else math.exp(1 - closest / length)
    return brevity * math.exp(math.fsum(logs) / len(logs))


def published_bleu(hypothesis: str, references: Sequence[str]) -> float:
    """``method1_bleu`` over the characters of texts as they are, 0 for a text without any but white space."""
    if not hypothesis.strip():
        return 0.0
    return method1_bleu(spaced(hypothesis).split(" "), [spaced(reference).split(" ") for reference in references])


def _sentences(text: str) -> list[list[str]]:
    """The sentences between full stops, as lists of tokens; one of white space alone has one empty token."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _ngrams(sentences: Sequence[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    tokens = [token for sentence in sentences for token in sentence]
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _f(shared: int, found: int, wanted: int) -> float:
    precision, recall = (shared / found if found else 0.0), (shared / wanted if wanted else 0.0)
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The longest common subsequence that rouge 1.0.0 picks; another of the same length may have other tokens."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, token in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if token == other else max(table[i][j + 1], table[i + 1][j])
    picked, i, j = list[str](), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            picked.append(first[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return picked


def _precision(hypothesis: Sequence[str], references: Sequence[Sequence[str]], n: int) -> float:
    counts = _ngrams([hypothesis], n)
    most = Counter[tuple[str, ...]]()
    for reference in references:
        most |= _ngrams([reference], n)
    return ((counts & most).total() or METHOD_1) / max(1, counts.total())
