"""What search makes of a model: quality against beam width, model and search errors, and locally right, globally wrong.

Scores are sums of log-probabilities without a length penalty. A model error is a text that scores more than gold, a
search error one that scores less: the search has missed gold, or what is better still.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from s2s.diagnose.traces import Pair, Trace, trace
from s2s.inference.generate import generate
from s2s.metrics.repetition import length_ratio
from s2s.model import PrefixTransformer
from s2s.search.beam import Hypothesis
from s2s.search.methods.beam import SearchSettings
from s2s.search.scorer import Scorer, State
from s2s.vocabulary import Vocabulary

Quality = Callable[[Sequence[str], Sequence[str]], float]
"""Hypotheses and references to a number, more being better."""


class Gold(NamedTuple):
    """A gold target, its summed log-probability, its end included, and whether each of its tokens is the likeliest."""

    ids: list[int]
    score: float
    locally_right: bool


class Outcome(NamedTuple):
    """Shares in [0, 1] of the sentences whose gold target and found text both end within the search's limit."""

    sentences: int
    model_errors: float  # the found text scores more than gold
    search_errors: float  # it scores less
    locally_right: int  # sentences whose gold tokens are all the likeliest
    su_gap: float  # of those, the share whose found text is another one and scores more; NaN without any


class Point(NamedTuple):
    """One beam width of a curve."""

    beams: int
    quality: float
    length_ratio: float  # tokens of the found texts over gold's
    empty: float  # share of texts without a token
    outcome: Outcome


class Curse(NamedTuple):
    """The best quality of a curve minus that of the widest beam, and the same over the best."""

    drop: float
    relative: float


@torch.no_grad()
def score_gold(scorer: Scorer[State], targets: Sequence[Sequence[int]]) -> list[Gold]:
    """Score targets, ids with neither begin nor end, one for each source of any scorer.

    Where tokens are equally likely, gold is one of the likeliest.
    """
    rows = [[*target, scorer.end] for target in targets]
    sums, right = [0.0] * len(rows), [True] * len(rows)
    live, state = list(range(len(rows))), scorer.start()
    tokens = torch.full((len(rows),), scorer.begin)
    for column in range(max(map(len, rows), default=0)):
        log_probs, state = scorer.step(tokens, state)
        for row, scores in zip(live, log_probs, strict=True):
            chosen = float(scores[rows[row][column]])
            sums[row], right[row] = sums[row] + chosen, right[row] and chosen >= float(scores.max())
        kept = [place for place, row in enumerate(live) if len(rows[row]) > column + 1]
        live = [live[place] for place in kept]
        if not live:
            break
        state = scorer.reorder(state, torch.tensor(kept))
        tokens = torch.tensor([rows[row][column] for row in live], device=log_probs.device)
    return [Gold(list(target), *found) for target, found in zip(targets, zip(sums, right, strict=True), strict=True)]


def gold_of(traces: Sequence[Trace]) -> list[Gold]:
    """The same from traces of gold targets."""
    return [
        Gold(one.tokens[:-1].tolist(), float(one.log_probs.sum()), bool((one.log_probs >= one.best_log_probs).all()))
        for one in traces
    ]


def outcome(
    golds: Sequence[Gold], found: Sequence[Sequence[Hypothesis]], max_length: int, near: float = 1e-4
) -> Outcome:
    """Judge the best hypothesis of each source, found without a length penalty, by the score of its gold target.

    Left out are sources whose gold target has ``max_length`` tokens or more, and whose hypothesis has: it has no end,
    and so is worth more than with one. Scores within ``near`` nats are equal, as rounding differs between one pass and
    many steps. Su's gap is his article's example as a rate: each step of teacher forcing finds the right token, and
    the beam another text; one beam cannot. Source: Su Jianlin 2020 (7259); Stahlberg and Byrne, "On NMT Search Errors
    and Model Errors", 2019.
    """
    judged = [
        (gold, *best[0])
        for gold, best in zip(golds, found, strict=True)
        if best and max(len(gold.ids), len(best[0][0])) < max_length
    ]
    above = [score > gold.score + near for gold, _, score in judged]
    below = [score < gold.score - near for gold, _, score in judged]
    right = [ids != gold.ids and more for (gold, ids, _), more in zip(judged, above, strict=True) if gold.locally_right]
    return Outcome(len(judged), _share(above), _share(below), len(right), _share(right))


def search_curve(
    model: PrefixTransformer,
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    quality: Quality,
    max_length: int,
    beams: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    length_penalty: float = 0.0,
    size: int = 32,
) -> list[Point]:
    """Search with each number of beams; texts are of at most ``max_length`` tokens.

    With a length penalty the quality is that of the texts it prefers, and outcomes still compare sums.
    """
    golds, sources = gold_of(trace(model, vocabulary, pairs, size)), [source for source, _ in pairs]
    points = []
    for width in beams:
        settings = SearchSettings(beams=width, length_penalty=length_penalty, batch=max(1, size // width))
        found = generate(model, vocabulary, sources, settings, max_length, lambda _: None)
        summed = [_summed(best, length_penalty, max_length) for best in found]
        points.append(point(width, summed, golds, vocabulary.decode, quality, max_length))
    return points


def _summed(found: Sequence[Hypothesis], length_penalty: float, max_length: int) -> list[Hypothesis]:
    """Hypotheses with their sums of log-probabilities in the place of scores."""
    return [(ids, score * (len(ids) + (len(ids) < max_length)) ** length_penalty) for ids, score in found]


def curse(points: Sequence[Point]) -> Curse:
    """What the widest beam loses against the best one (the beam search curse)."""
    best, widest = max(point.quality for point in points), max(points, key=lambda point: point.beams).quality
    return Curse(best - widest, (best - widest) / best if best else 0.0)


def point(
    beams: int,
    found: Sequence[Sequence[Hypothesis]],
    golds: Sequence[Gold],
    decode: Callable[[Sequence[int]], str],
    quality: Quality,
    max_length: int,
) -> Point:
    """One point of a curve, from the hypotheses that so many beams have found for each source."""
    ids = [list(best[0][0]) if best else [] for best in found]
    texts, references = [decode(row) for row in ids], [decode(gold.ids) for gold in golds]
    ratio = length_ratio(ids, [gold.ids for gold in golds])
    empty = _share([not row for row in ids])
    return Point(beams, quality(texts, references), ratio, empty, outcome(golds, found, max_length))


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else float("nan")
