"""Scores of generated texts other than overlap: transport distances, repetition, copying and length."""

from collections.abc import Callable, Sequence

import numpy as np

from s2s.errors import UserError
from s2s.metrics.overlap import Statistics, mean_of, percent
from s2s.metrics.references import References, listed
from s2s.metrics.repetition import copy_rate, seq_rep_n
from s2s.metrics.tokenisation import composed, words
from s2s.metrics.transport.exact import word_movers_distance, word_movers_distance_article, word_rotators_distance
from s2s.metrics.transport.vectors import Distance, Embed, corpus_distances

DISTANCES: dict[str, Distance] = {
    "wmd": word_movers_distance,
    "wmd_article": word_movers_distance_article,
    "wrd": word_rotators_distance,
}
WORDS = "seq_rep, length_ratio, copy_2|tok:words|norm:nfc|case:lc|in percent"
"""The signature of ``repetition_statistics``."""
LONGEST = {"wrd": 2.0}
"""Upper bounds of distances. A text without tokens gets the bound, or where there is none the worst other distance."""


def transport_statistics(
    hypotheses: Sequence[str],
    references: References,
    embed: Embed,
    on_progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Statistics]:
    """Return for each distance a hundred times its mean over texts, each to the nearest of its references.

    Texts are embedded in NFC. A hypothesis without tokens gets the largest distance: 2 for ``wrd``, that of the worst
    other text for ``wmd``. Raises ``UserError`` for a reference without tokens, and where POT is not installed.
    """
    lists = listed(hypotheses, references)
    pairs = [
        (composed(text), composed(reference)) for text, row in zip(hypotheses, lists, strict=True) for reference in row
    ]
    texts, owners = list(zip(*pairs, strict=True)), np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    if empty := [index for index, text in enumerate(texts[1]) if not len(np.asarray(embed(text)))]:
        raise UserError(f"text {owners[empty[0]] + 1}: its reference has no tokens, so nothing has a distance from it")
    statistics = {}
    for name, distance in DISTANCES.items():
        try:
            distances = corpus_distances(texts[0], texts[1], embed, distance, on_progress, empty=np.inf)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        nearest = np.full(len(lists), np.inf)
        np.minimum.at(nearest, owners, distances)
        known = nearest[np.isfinite(nearest)]
        worst = LONGEST.get(name, known.max() if known.size else np.nan)
        statistics[name] = mean_of(np.where(np.isfinite(nearest), nearest, worst))
    return statistics


def repetition_statistics(
    hypotheses: Sequence[str], references: References, sources: Sequence[str] | None = None
) -> dict[str, Statistics]:
    """Return percentages of words: repeated bigrams and 4-grams, words over those of the first reference, copied words.

    ``copy_2`` counts words in runs of 2 or more that the source contains.
    """
    texts = [words(text) for text in hypotheses]
    golds = [words(row[0]) for row in listed(hypotheses, references)]
    lengths = np.array([(len(text), len(gold)) for text, gold in zip(texts, golds, strict=True)], dtype=float)
    statistics = {f"seq_rep_{n}": mean_of(np.array([seq_rep_n(text, n) for text in texts])) for n in (2, 4)}
    statistics["length_ratio"] = Statistics(lengths, percent)
    if sources is not None:
        if len(sources) != len(hypotheses):
            raise UserError(f"{len(hypotheses)} hypotheses and {len(sources)} sources: there must be one for each")
        copied = [copy_rate(text, words(source), 2) for text, source in zip(texts, sources, strict=True)]
        statistics["copy_2"] = mean_of(np.array(copied))
    return statistics
