"""Does the error accumulate? The divergence of a model from an oracle along its own texts, over that along data.

R(l) = sum_{t<=l} KL(oracle || model) along texts of the model / the same along data. The accumulated error is l R(l),
and l itself where nothing accumulates; the excess is (R(l) - 1) 100 percent. Source: Arora et al., "Why Exposure Bias
Matters: An Imitation Learning Perspective of Error Accumulation in Language Generation", 2022.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from s2s.batch import IGNORED
from s2s.data.synthetic import Transduction
from s2s.diagnose.rollouts import rollouts
from s2s.diagnose.traces import Integers, OnProgress, Pair, batches, no_progress
from s2s.errors import UserError
from s2s.losses.passes import Passes
from s2s.metrics.bootstrap import Numbers
from s2s.model import PrefixTransformer
from s2s.vocabulary import Vocabulary

Oracle = Callable[[Sequence[int], Sequence[int]], Numbers]
"""Ids of a source with begin and end, and of a target with neither, to the log-probabilities [tokens + 1, V] of each
token and the end."""


ROUNDING = 1e-12
"""What two computations of one distribution diverge by at most, in nats: the square of their difference."""


class Divergences(NamedTuple):
    """KL(oracle || model) in nats at each token of N texts of the model, and of the data's for the same sources.

    Rows are filled with NaN; ``sources`` [N] are the numbers of the sources, which may have several texts.
    """

    rollouts: Numbers  # [N, longest]
    data: Numbers  # [N, longest]
    sources: Integers

    def sums(self, length: int) -> Numbers:
        """Sums [N, 2] over the first ``length`` tokens, of rows that have as many on both sides; NaN for others."""
        sums = np.stack([side[:, :length].sum(axis=1) for side in (self.rollouts, self.data)], axis=1)
        missing = length > min(self.rollouts.shape[1], self.data.shape[1])
        sums[missing | np.isnan(sums).any(axis=1)] = np.nan
        return sums

    def statistics(self, length: int) -> Numbers:
        """Sums [sources, 2] of each source, for ``excess`` and its interval by ``bootstrap``."""
        found = np.zeros((int(self.sources.max()) + 1, 2))
        np.add.at(found, self.sources, np.nan_to_num(self.sums(length)))
        return found


class Accumulation(NamedTuple):
    """The error at each length l = 1, 2 ... that enough texts have on both sides."""

    texts: Integers  # how many
    accumulated: Numbers  # l R(l)
    excess: Numbers  # (R(l) - 1) 100, in percent


def ratio(sums: Numbers) -> Numbers:
    """R from sums [..., 2] of divergences along texts of the model and along data.

    1 where both are 0: a model that equals the oracle accumulates nothing. Infinite where only that along data is 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums[..., 0] / sums[..., 1]
    return np.where((sums == 0).all(axis=-1), 1.0, found)


def excess(sums: Numbers) -> Numbers:
    """The excess of accumulated error in percent, from sums [..., 2]."""
    return (ratio(sums) - 1) * 100


def accumulate(divergences: Divergences, least: int = 100) -> Accumulation:
    """The accumulated error at every length that at least ``least`` texts have on both sides."""
    lengths = range(1, min(divergences.rollouts.shape[1], divergences.data.shape[1]) + 1)
    each = [divergences.sums(length) for length in lengths]
    texts = np.array([int((~np.isnan(sums[:, 0])).sum()) for sums in each], dtype=np.int64)
    enough = int((texts >= max(1, least)).sum())  # they only get fewer
    totals = np.array([np.nansum(sums, axis=0) for sums in each[:enough]]).reshape(-1, 2)
    return Accumulation(texts[:enough], np.arange(1, enough + 1) * ratio(totals), excess(totals))


def divergence(oracle: Numbers, model: Numbers) -> Numbers:
    """KL(oracle || model) in nats [...] of log-probabilities [..., V]; what the oracle rules out counts for nothing.

    What is less than ``ROUNDING`` is 0, so that equal distributions have no divergence.
    """
    chances = np.exp(oracle)
    with np.errstate(invalid="ignore"):
        terms = np.where(chances > 0, chances * (oracle - model), 0.0)
    total = terms.sum(axis=-1)
    return np.where(total < ROUNDING, 0.0, total)


def oracle_divergences(
    model: PrefixTransformer,
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
    texts = rollouts(model, vocabulary, pairs, max_length, samples, seed, size, on_progress)
    own = [(source, text.ids) for (source, _), row in zip(pairs, texts, strict=True) for text in row]
    ended = [text.ended for row in texts for text in row]
    along = _divergences(model, vocabulary, oracle, own, size)
    along = [row[: len(row) - (not whole)] for row, whole in zip(along, ended, strict=True)]
    data = [row for row in _divergences(model, vocabulary, oracle, pairs, size) for _ in range(samples)]
    return Divergences(_filled(along), _filled(data), np.repeat(np.arange(len(pairs)), samples))


def task_oracle(task: Transduction, vocabulary: Vocabulary) -> Oracle:
    """The true conditional of a synthetic task over a vocabulary's ids.

    Raises ``UserError`` where a word is not one id.
    """
    ids = [_single(word, vocabulary) for word in task.words]
    names = dict(zip(ids, task.words, strict=True))

    def log_probs(source: Sequence[int], target: Sequence[int]) -> Numbers:
        known = task.along(vocabulary.decode(source).split(), [names.get(token, "") for token in target])
        rows = np.full((len(known), vocabulary.size), -np.inf)
        rows[:, [*ids, vocabulary.end]] = known
        return rows

    return log_probs


def model_oracle(models: Sequence[PrefixTransformer], vocabulary: Vocabulary) -> Oracle:
    """The mean of models' distributions, as a stand-in for the true one: evidence, not proof."""

    def log_probs(source: Sequence[int], target: Sequence[int]) -> Numbers:
        each = [next(distributions(model, vocabulary, [(source, target)]))[1] for model in models]
        return np.logaddexp.reduce(np.stack(each), axis=0) - np.log(len(each))

    return log_probs


@torch.no_grad()
def distributions(
    model: PrefixTransformer, vocabulary: Vocabulary, pairs: Sequence[Pair], size: int = 32
) -> Iterator[tuple[int, Numbers]]:
    """The number of each pair, in no order, and log-probabilities [tokens + 1, V] of its target's tokens and end."""
    for indices, batch in batches(vocabulary, pairs, size, model.output_bias.device):
        log_probs = Passes(model, 0.0, model).score(batch).logits.double().log_softmax(dim=-1).cpu().numpy()
        ends = (batch.labels != IGNORED).sum(dim=1).cumsum(0)[:-1].tolist()
        yield from zip(indices.tolist(), np.split(log_probs, ends), strict=True)


def _divergences(
    model: PrefixTransformer, vocabulary: Vocabulary, oracle: Oracle, pairs: Sequence[Pair], size: int
) -> list[Numbers]:
    found = {
        index: divergence(oracle(*pairs[index]), ours) for index, ours in distributions(model, vocabulary, pairs, size)
    }
    return [found[index] for index in range(len(pairs))]


def _filled(rows: Sequence[Numbers]) -> Numbers:
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])


def _single(word: str, vocabulary: Vocabulary) -> int:
    ids = vocabulary.encode(word)
    if len(ids) != 1:
        raise UserError(f"the vocabulary has {len(ids)} ids for the word '{word}'; an oracle needs one for each word")
    return ids[0]
