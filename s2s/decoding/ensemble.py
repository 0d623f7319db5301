"""Several runs that decode as one, and a run that ranks the hypotheses of others."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from s2s.config.ranges import Positive, Share, settled
from s2s.data.rows import given_texts
from s2s.errors import UserError
from s2s.runs.run import Hypothesis, Run


def ensemble(runs: Sequence[Run], weights: Sequence[float] | None = None) -> Run:
    """Return a run whose next-token probabilities are the mean of the runs', weighted if ``weights`` are given.

    Its recipe, and so its limits and defaults, are those of the first run. Raises a ``UserError`` where vocabularies
    differ, or weights do not fit.
    """
    if not isinstance(runs, Sequence) or not runs or not all(isinstance(run, Run) for run in runs):
        raise UserError("runs: a list of one run or more is needed, as s2s.load returns them")
    first, *others = runs
    for other in others:
        if _files(other.folder) != _files(first.folder):
            raise UserError(f"run: '{first.folder}' and '{other.folder}' have different vocabularies")
    if weights is None:
        return replace(first, partners=tuple(others), weights=None)
    given = [] if isinstance(weights, str) or not isinstance(weights, Iterable) else list(weights)
    if len(given) != len(runs):
        raise UserError(f"weights: {len(runs)} runs need {len(runs)} positive weights, not {weights}")
    given = settled(list[Positive], given, "weights")
    return replace(first, partners=tuple(others), weights=tuple(given))


def rerank(
    run: Run, texts: Sequence[str], hypotheses: Sequence[Sequence[Hypothesis]], weight: float = 1.0
) -> list[list[Hypothesis]]:
    """Sort each source's hypotheses by (1 - ``weight``) * score + ``weight`` * their log-probability in ``run``.

    The end of a text counts. ``run`` reads texts, so it may have another vocabulary. Equal scores keep their order.
    """
    weight, sources = settled(Share, weight, "weight"), given_texts(texts, "texts")
    if len(hypotheses) != len(sources):
        raise UserError(f"hypotheses: those of {len(hypotheses)} sources for {len(sources)} texts")
    pairs = [(text, row.text) for text, rows in zip(sources, hypotheses, strict=True) for row in rows]
    if not run.recipe.generates:
        raise UserError(f"rerank: run '{run.folder}' was trained without targets and scores nothing")
    sums = iter([float(row.sum()) for row in run.score(*map(list, zip(*pairs, strict=True)))] if pairs else [])
    mixed = [[_mixed(row, weight, next(sums)) for row in rows] for rows in hypotheses]
    return [sorted(rows, key=lambda hypothesis: -hypothesis.score) for rows in mixed]


def _mixed(hypothesis: Hypothesis, weight: float, other: float) -> Hypothesis:
    mixed = hypothesis._replace(score=(1 - weight) * hypothesis.score + weight * other)
    mixed.token_scores = hypothesis.token_scores  # no field of the tuple, so ``_replace`` drops it
    return mixed


def _files(folder: Path) -> dict[str, bytes]:
    """Return the files of a run's vocabulary, which are equal for equal vocabularies."""
    return {path.name: path.read_bytes() for path in (folder / "vocabulary").iterdir()}
