"""Does the error accumulate? The divergence of a model from an oracle along its own texts, over that along data.

R(l) = sum_{t<=l} KL(oracle || model) along texts of the model / the same along the data. The accumulated error is
l R(l), and l itself where nothing accumulates; the excess is (R(l) - 1) 100 percent. Source: Arora et al., "Why
Exposure Bias Matters: An Imitation Learning Perspective of Error Accumulation in Language Generation", 2022.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from s2s.batch import IGNORED
from s2s.data.synthetic import Transduction
from s2s.diagnose.measurements import Divergences, Measurements, Plain, Quantity
from s2s.diagnose.traces import Integers, OnProgress, Pair, batches, no_progress, sample_texts
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Numbers
from s2s.model.backbone import Backbone
from s2s.vocabulary import Vocabulary

Oracle = Callable[[Sequence[int], Sequence[int]], Numbers]
"""Maps ids of a source with begin and end, and of a target with neither, to the log-probabilities [tokens + 1, V] of
each token and the end."""
ROUNDING = 1e-12
"""The largest divergence, in nats, of two computations of one distribution: the square of their difference."""
LEAST = 100
"""The number of texts that must be as long for an accumulated error to be reported."""


class Accumulation(NamedTuple):
    """The error at each length l = 1, 2 ... that enough texts have on both sides."""

    texts: Integers  # their number
    accumulated: Numbers  # l R(l)
    excess: Numbers  # (R(l) - 1) 100, in percent


def quantities(runs: Sequence[Measurements]) -> list[Quantity]:
    """Return the excess at the middle and at the long end of gold's lengths; nothing where a run has no oracle."""
    divergences = [run.divergences for run in runs if run.divergences is not None]
    if len(divergences) < len(runs):
        return []
    longest = min(len(accumulate(run).texts) for run in divergences)
    lengths = np.quantile([len(trace.tokens) for trace in runs[0].forced], [0.5, 0.9]).astype(int)
    reached = {percent: min(int(length), longest) for percent, length in zip((50, 90), lengths, strict=True) if longest}
    return [
        Quantity(
            f"excess_error_{percent}", f"accumulated error in excess, after {length} tokens", "%", "lower",
            partial(_statistics_of_run, length=length), excess,
        )
        for percent, length in reached.items()
    ]  # fmt: skip


def _statistics_of_run(run: Measurements, length: int) -> Numbers:
    assert run.divergences is not None
    return statistics(run.divergences, length)


def details(run: Measurements) -> Plain | None:
    """Return the accumulated error at every length that enough texts have; None without an oracle."""
    if run.divergences is None:
        return None
    return {"oracle": run.truth, "exact": run.exact, **accumulate(run.divergences)._asdict()}


def sums(divergences: Divergences, length: int) -> Numbers:
    """Sum the first ``length`` tokens, [N, 2], of texts that are long enough on both sides; NaN for others."""
    sides = divergences.rollouts, divergences.data
    totals = np.stack([side[:, :length].sum(axis=1) for side in sides], axis=1)
    too_long = length > min(side.shape[1] for side in sides)
    totals[too_long | np.isnan(totals).any(axis=1)] = np.nan
    return totals


def statistics(divergences: Divergences, length: int) -> Numbers:
    """Sum each source over its texts, [sources, 2], for ``excess`` and its interval by ``bootstrap``."""
    totals = np.zeros((int(divergences.sources.max()) + 1, 2))
    np.add.at(totals, divergences.sources, np.nan_to_num(sums(divergences, length)))
    return totals


def ratio(sums: Numbers) -> Numbers:
    """Return R from sums [..., 2] of divergences along texts of the model and along data.

    1 where both are 0: a model that equals the oracle accumulates nothing. Infinite where only that along data is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = sums[..., 0] / sums[..., 1]
    return np.where((sums == 0).all(axis=-1), 1.0, quotients)


def excess(sums: Numbers) -> Numbers:
    """Return the excess of accumulated error in percent, from sums [..., 2]."""
    return (ratio(sums) - 1) * 100


def accumulate(divergences: Divergences, least: int = LEAST) -> Accumulation:
    """Return the accumulated error at every length that at least ``least`` texts have on both sides."""
    longest = min(divergences.rollouts.shape[1], divergences.data.shape[1])
    rows = [sums(divergences, length) for length in range(1, longest + 1)]
    texts = np.array([int((~np.isnan(row[:, 0])).sum()) for row in rows], dtype=np.int64)
    enough = int((texts >= max(1, least)).sum())  # a prefix of the lengths: the texts only become fewer
    totals = np.array([np.nansum(row, axis=0) for row in rows[:enough]]).reshape(-1, 2)
    return Accumulation(texts[:enough], np.arange(1, enough + 1) * ratio(totals), excess(totals))


def divergence(oracle: Numbers, model: Numbers) -> Numbers:
    """Return KL(oracle || model) in nats [...] of log-probabilities [..., V]; tokens impossible for the oracle add 0.

    Less than ``ROUNDING`` becomes 0, so that equal distributions have no divergence.
    """
    chances = np.exp(oracle)
    with np.errstate(invalid="ignore"):
        terms = np.where(chances > 0, chances * (oracle - model), 0.0)
    total = terms.sum(axis=-1)
    return np.where(total < ROUNDING, 0.0, total)


def measure_divergences(
    model: Backbone,
    vocabulary: Vocabulary,
    oracle: Oracle,
    pairs: Sequence[Pair],
    max_length: int,
    samples: int = 4,
    seed: int = 0,
    size: int = 32,
    on_progress: OnProgress = no_progress,
) -> Divergences:
    """Measure along ``samples`` texts of each source, drawn from a model in evaluation mode, and along its gold target.

    A text that reaches ``max_length`` tokens is judged without an end.
    """

    def along(pairs: Sequence[Pair]) -> list[Numbers]:
        rows = {
            number: divergence(oracle(*pairs[number]), log_probs)
            for number, log_probs in distributions(model, vocabulary, pairs, size)
        }
        return [rows[number] for number in range(len(pairs))]

    texts = sample_texts(model, vocabulary, pairs, max_length, samples, seed, size, on_progress)
    drawn = along([(source, text.ids) for (source, _), row in zip(pairs, texts, strict=True) for text in row])
    ended = [text.ended for row in texts for text in row]
    # A pass judges an end after every text; a text that was cut at the limit never chose one.
    drawn = [row[: len(row) - (not whole)] for row, whole in zip(drawn, ended, strict=True)]
    data = [row for row in along(pairs) for _ in range(samples)]
    return Divergences(_filled(drawn), _filled(data), np.repeat(np.arange(len(pairs)), samples))


def _filled(rows: Sequence[Numbers]) -> Numbers:
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])


def task_oracle(task: Transduction, vocabulary: Vocabulary) -> Oracle:
    """Return the true conditional of a synthetic task over a vocabulary's ids.

    Raises ``UserError`` where a word is not one id; so does the oracle for an example that is not of the task.
    """
    ids = [vocabulary.encode(word) for word in task.words]
    for word, pieces in zip(task.words, ids, strict=True):
        if len(pieces) != 1:
            ids_of_word = f"the vocabulary has {len(pieces)} ids for the word '{word}'"
            raise UserError(f"{ids_of_word}; an oracle needs one for each word")
    names = {pieces[0]: word for word, pieces in zip(task.words, ids, strict=True)}

    def log_probs(source: Sequence[int], target: Sequence[int]) -> Numbers:
        try:
            known = task.along(vocabulary.decode(source).split(), [names.get(token, "") for token in target])
        except ValueError as error:
            raise UserError(f"data: an example is not of the run's task: {error}") from error
        rows = np.full((len(known), vocabulary.size), -np.inf)
        # All ids that are no word of the task are impossible.
        rows[:, [*names, vocabulary.end]] = known
        return rows

    return log_probs


def model_oracle(models: Sequence[Backbone], vocabulary: Vocabulary) -> Oracle:
    """Return the mean of models' distributions, which replaces an unknown true one: evidence, not proof."""

    def log_probs(source: Sequence[int], target: Sequence[int]) -> Numbers:
        rows = [next(distributions(model, vocabulary, [(source, target)]))[1] for model in models]
        return np.logaddexp.reduce(np.stack(rows), axis=0) - np.log(len(rows))

    return log_probs


@torch.no_grad()
def distributions(
    model: Backbone, vocabulary: Vocabulary, pairs: Sequence[Pair], size: int = 32
) -> Iterator[tuple[int, Numbers]]:
    """Yield each pair's number, in no order, and log-probabilities [tokens + 1, V] of its target's tokens and end."""
    for indices, batch in batches(vocabulary, pairs, size, model.device):
        # KL subtracts nearly equal numbers: in float32 rounding alone would look like a divergence.
        log_probs = Passes(model, 0.0, model).score(batch).logits.double().log_softmax(dim=-1).cpu().numpy()
        ends = (batch.labels != IGNORED).sum(dim=1).cumsum(0)[:-1].tolist()
        yield from zip(indices.tolist(), np.split(log_probs, ends), strict=True)
