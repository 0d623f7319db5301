"""The metrics of Su Jianlin's published tables, as the packages of that time compute them.

Texts are lower-cased characters joined by blanks, so a real blank makes empty tokens. ROUGE is that of the package
rouge 1.0.0 with its defaults: texts are split into sentences at ".", ROUGE-1 and -2 count n-grams over the whole text,
and ROUGE-L counts each distinct token once, so it is not LCS / length and ignores repetition. BLEU is the mean of
NLTK's sentence BLEU with four n-gram orders and smoothing method 1. An empty text scores 0. These rules only make
scores comparable with published ones; the correct ones are in ``s2s.metrics.sequences`` and sacrebleu.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from s2s.metrics.sequences import CommonSubsequences, Tokens, ngrams

METHOD_1 = 0.1
"""The count that smoothing method 1 puts in place of 0 shared n-grams (Chen and Cherry, 2014)."""


class PublishedRouge(NamedTuple):
    """F-measures of rouge 1.0.0 in [0, 1]."""

    rouge_1: float
    rouge_2: float
    rouge_l: float


def spaced(text: str) -> str:
    """Return the text's characters with blanks between them, lower-cased."""
    return " ".join(text).lower()


def published_rouge(hypothesis: str, reference: str) -> PublishedRouge:
    """Return the ``f`` of ``rouge.Rouge().get_scores``, version 1.0.0, for two texts of blank-separated tokens.

    All are 0 where that package refuses a text, because it is empty or has only ".".
    """
    sentences, gold = _sentences(hypothesis), _sentences(reference)
    if not sentences or not gold:
        return PublishedRouge(0.0, 0.0, 0.0)
    tokens, gold_tokens = ([token for row in rows for token in row] for rows in (sentences, gold))
    counts = [(Counter(ngrams(tokens, n)), Counter(ngrams(gold_tokens, n))) for n in (1, 2)]
    first, second = (_f((a & b).total(), a.total(), b.total()) for a, b in counts)
    shared = {token for row in sentences for other in gold for token in _common_tokens(other, row)}
    return PublishedRouge(first, second, _f(len(shared), len(set().union(*sentences)), len(set().union(*gold))))


def method1_bleu(hypothesis: Tokens, references: Sequence[Tokens]) -> float:
    """Return NLTK's ``sentence_bleu`` with ``SmoothingFunction().method1`` and uniform weights over four orders."""
    if set(hypothesis).isdisjoint(set().union(*references)):
        return 0.0
    logs = [math.log(_precision(hypothesis, references, n)) for n in (1, 2, 3, 4)]
    length = len(hypothesis)
    closest = min((len(reference) for reference in references), key=lambda other: (abs(other - length), other))
    brevity = 1.0 if length > closest else math.exp(1 - closest / length)
    return brevity * math.exp(math.fsum(logs) / len(logs))


def published_bleu(hypothesis: str, references: Sequence[str]) -> float:
    """Return ``method1_bleu`` over the characters of unchanged texts, 0 for a text of white space alone."""
    if not hypothesis.strip():
        return 0.0
    return method1_bleu(spaced(hypothesis).split(" "), [spaced(reference).split(" ") for reference in references])


def _sentences(text: str) -> list[list[str]]:
    """Return the tokens of each sentence between full stops; a sentence of white space has one empty token."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _f(shared: int, hypothesis_total: int, reference_total: int) -> float:
    precision = shared / hypothesis_total if hypothesis_total else 0.0
    recall = shared / reference_total if reference_total else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))


def _common_tokens(first: Tokens, second: Tokens) -> set[Hashable]:
    """Return the tokens of the LCS that rouge 1.0.0 picks."""
    # Several subsequences may be equally long and differ in their tokens, so the walk back is that package's own:
    # equal tokens are always taken, unlike in CommonSubsequences.pairs.
    table, picked = CommonSubsequences(first, second), set[Hashable]()
    i, j = table.sizes
    while i and j:
        if first[i - 1] == second[j - 1]:
            picked.add(first[i - 1])
            i, j = i - 1, j - 1
        elif table.length(i - 1, j) > table.length(i, j - 1):
            i -= 1
        else:
            j -= 1
    return picked


def _precision(hypothesis: Tokens, references: Sequence[Tokens], n: int) -> float:
    counts, most = Counter(ngrams(hypothesis, n)), Counter[tuple[Hashable, ...]]()
    for reference in references:
        most |= Counter(ngrams(reference, n))
    return ((counts & most).total() or METHOD_1) / max(1, counts.total())
