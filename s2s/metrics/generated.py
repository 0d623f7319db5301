"""Scores of generated texts beside overlap: transport distances, repetition, copying and length."""

from collections.abc import Callable, Sequence

import numpy as np

from s2s.errors import UserError
from s2s.metrics.overlap import Numbers, Statistics
from s2s.metrics.references import References, listed
from s2s.metrics.repetition import copy_rate, seq_rep_n
from s2s.metrics.tokenisation import composed, words
from s2s.metrics.transport.corpus import Distance, corpus_distances
from s2s.metrics.transport.exact import word_movers_distance, word_movers_distance_article, word_rotators_distance
from s2s.metrics.transport.vectors import Embed

DISTANCES: dict[str, Distance] = {
    "wmd": word_movers_distance,
    "wmd_article": word_movers_distance_article,
    "wrd": word_rotators_distance,
}
WORDS = "seq_rep, length_ratio, copy_2|tok:words|norm:nfc|case:lc|in percent"
"""How ``repetition_statistics`` are counted, for a signature."""
LONGEST = {"wrd": 2.0}
"""What the distance of a text without tokens is: the largest there is, or that of the worst other pair."""


def transport_statistics(
    hypotheses: Sequence[str],
    references: References,
    embed: Embed,
    on_progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Statistics]:
    """Return a hundred times the mean distance of each hypothesis from the nearest of its references, by name.

    Texts are embedded in NFC. A hypothesis without tokens is as far off as can be: 2 for ``wrd``, as far as the worst
    of the others for ``wmd``. Raises ``UserError`` for a reference without tokens and where POT is not installed.
    """
    lists = listed(hypotheses, references)
    pairs = [
        (composed(text), composed(reference)) for text, row in zip(hypotheses, lists, strict=True) for reference in row
    ]
    texts, owners = list(zip(*pairs, strict=True)), np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    if empty := [place for place, text in enumerate(texts[1]) if not len(np.asarray(embed(text)))]:
        raise UserError(f"text {owners[empty[0]] + 1}: its reference has no tokens, so nothing has a distance from it")
    found = {}
    for name, distance in DISTANCES.items():
        try:
            each = corpus_distances(texts[0], texts[1], embed, distance, on_progress, empty=np.inf)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
        nearest = np.full(len(lists), np.inf)
        np.minimum.at(nearest, owners, each)
        known = nearest[np.isfinite(nearest)]
        worst = LONGEST.get(name, known.max() if known.size else np.nan)
        found[name] = _mean(np.where(np.isfinite(nearest), nearest, worst))
    return found


def repetition_statistics(
    hypotheses: Sequence[str], references: References, sources: Sequence[str] | None = None
) -> dict[str, Statistics]:
    """Percentages by words: repeated bigrams and 4-grams, tokens over those of the first reference, copied ones.

    ``copy_2`` are words inside runs of 2 or more that stand in the source as they are.
    """
    ours = [words(text) for text in hypotheses]
    theirs = [words(row[0]) for row in listed(hypotheses, references)]
    lengths = np.array([(len(text), len(gold)) for text, gold in zip(ours, theirs, strict=True)], dtype=float)
    found = {f"seq_rep_{n}": _mean(np.array([seq_rep_n(text, n) for text in ours])) for n in (2, 4)}
    found["length_ratio"] = Statistics(lengths, _percent)
    if sources is not None:
        if len(sources) != len(hypotheses):
            raise UserError(f"{len(hypotheses)} hypotheses and {len(sources)} sources: there must be one for each")
        copied = [copy_rate(text, words(source), 2) for text, source in zip(ours, sources, strict=True)]
        found["copy_2"] = _mean(np.array(copied))
    return found


def _mean(values: Numbers) -> Statistics:
    return Statistics(np.stack([values, np.ones(len(values))], axis=-1), _percent)


def _percent(sums: Numbers) -> Numbers:
    found: Numbers = 100 * sums[..., 0] / sums[..., 1]
    return found
