"""How texts repeat themselves, copy their sources and miss the length, over lists of tokens."""

from collections.abc import Hashable, Sequence

Tokens = Sequence[Hashable]


def distinct_n(texts: Sequence[Tokens], n: int) -> float:
    """Different n-grams of a set of texts over all of its n-grams, in [0, 1]; 0 where there is none.

    No n-gram spans two texts. It falls as the set grows, so only sets of like size compare.
    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016, section 5.3,
    where the divisor is the number of tokens; this one lets the best value be 1 for every n.
    """
    found = [ngram for text in texts for ngram in _ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def seq_rep_n(tokens: Tokens, n: int) -> float:
    """The share of a text's n-grams that stood there before: 1 - different / all, in [0, 1); 0 where there is none.

    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020, section 6.1; theirs is the mean
    over texts, with n = 4.
    """
    found = _ngrams(tokens, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def longest_copy(hypothesis: Tokens, source: Tokens) -> int:
    """The length of the longest run of the hypothesis that stands in the source as it is, in tokens."""
    longest, ending = 0, [0] * (len(source) + 1)
    for token in hypothesis:
        # How long a run ends here and at each place of the source, from those that ended one place before.
        ending = [0, *(before + 1 if token == other else 0 for before, other in zip(ending, source, strict=False))]
        longest = max(longest, max(ending))
    return longest


def copy_rate(hypothesis: Tokens, source: Tokens, n: int = 1) -> float:
    """The share of the hypothesis's tokens inside copied runs of at least ``n`` tokens, in [0, 1]; 0 for no tokens.

    A token counts once, however many runs hold it. With n = 1 it is the coverage of extractive fragments of Grusky et
    al., "Newsroom", 2018, section 4.1; larger ``n`` leave out what two texts on one matter share by chance.
    """
    known, covered = set(_ngrams(source, n)), [False] * len(hypothesis)
    for start, ngram in enumerate(_ngrams(hypothesis, n)):
        if ngram in known:
            covered[start : start + n] = [True] * n
    return sum(covered) / len(covered) if covered else 0.0


def length_ratio(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Tokens of all hypotheses over tokens of all references, as in BLEU's brevity penalty.

    Raises ``ValueError`` where the two are not of one number, or no reference has a token.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but {len(references)} references")
    wanted = sum(map(len, references))
    if not wanted:
        raise ValueError("references: no tokens to compare lengths with")
    return sum(map(len, hypotheses)) / wanted


def _ngrams(tokens: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 token, not {n}")
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))
