"""Repetition, copying from the source and length, over lists of tokens."""

from collections.abc import Sequence

from s2s.metrics.sequences import Tokens, ngrams


def distinct_n(texts: Sequence[Tokens], n: int) -> float:
    """Return the share of different n-grams among all n-grams of a set of texts, in [0, 1]; 0 where there is none.

    No n-gram spans two texts. The share falls as the set grows, so only sets of similar size compare.
    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016, section 5.3.
    They divide by the number of tokens; dividing by that of n-grams makes 1 the best value for every n.
    """
    items = [ngram for text in texts for ngram in ngrams(text, n)]
    return len(set(items)) / len(items) if items else 0.0


def seq_rep_n(tokens: Tokens, n: int) -> float:
    """Return the share of a text's n-grams that occurred before in it: 1 - different / all; 0 where there is none.

    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020, section 6.1; theirs is the mean
    over texts, with n = 4.
    """
    items = ngrams(tokens, n)
    return 1 - len(set(items)) / len(items) if items else 0.0


def longest_copy(hypothesis: Tokens, source: Tokens) -> int:
    """Return the length in tokens of the longest contiguous run of the hypothesis that the source contains."""
    longest, ending = 0, [0] * (len(source) + 1)
    for token in hypothesis:
        # ending[j]: the length of the common run that ends at this token and before source[j].
        ending = [0, *(before + 1 if token == other else 0 for before, other in zip(ending, source, strict=False))]
        longest = max(longest, max(ending))
    return longest


def copy_rate(hypothesis: Tokens, source: Tokens, n: int = 1) -> float:
    """Return the share of the hypothesis's tokens in copied runs of at least ``n`` tokens, in [0, 1]; 0 for no tokens.

    A token in several runs counts once. n = 1 is the coverage of extractive fragments of Grusky et al., "Newsroom",
    2018, section 4.1; a larger ``n`` leaves out the words that two texts on one subject share by chance.
    """
    known, covered = set(ngrams(source, n)), [False] * len(hypothesis)
    for start, ngram in enumerate(ngrams(hypothesis, n)):
        if ngram in known:
            covered[start : start + n] = [True] * n
    return sum(covered) / len(covered) if covered else 0.0


def length_ratio(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Return the tokens of all hypotheses over the tokens of all references, as in BLEU's brevity penalty.

    Raises ``ValueError`` for lists of different lengths, and where no reference has a token.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    total = sum(map(len, references))
    if not total:
        raise ValueError("references: no tokens to compare lengths with")
    return sum(map(len, hypotheses)) / total
