"""Candidates for a source: sampled from the model, or stored by decoding; and their log-probabilities."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch, pad
from s2s.data.readers import Found, read_rows
from s2s.data.rows import Row
from s2s.errors import UserError
from s2s.losses.fsdp import gathered
from s2s.losses.passes import Passes
from s2s.metrics.sentence import Metric
from s2s.mitigations.base import StepContext, TrainingContext
from s2s.model import Memory, PrefixTransformer
from s2s.randomness import Draws
from s2s.vocabulary import Vocabulary

Ids = list[int]


class Candidate(NamedTuple):
    """Ids without begin and end, and whether the end follows them: it does not where a search stopped at its limit."""

    ids: Ids
    ended: bool


class Packed(NamedTuple):
    """K candidates of each source side by side: decoder inputs and labels [B, K, L]; one without labels is none."""

    target: Tensor
    labels: Tensor

    def log_probs(self, passes: Passes, batch: Batch) -> Tensor:
        """The sum [B, K] of each candidate's log-probabilities, its end included, in one pass over all of them."""
        rows, copies, _ = self.labels.shape
        packed = batch._replace(target=self.target.flatten(1), labels=self.labels.flatten(1))
        scores = passes.score(packed, copies=copies)
        owner = torch.arange(rows * copies, device=self.labels.device).view(rows, copies, 1).expand_as(self.labels)
        sums = scores.logits.new_zeros(rows * copies)
        return sums.index_add(0, owner[self.labels != IGNORED], scores.log_probs()).view(rows, copies)

    def lengths(self) -> Tensor:
        """How many labels [B, K] each has, its end included."""
        return (self.labels != IGNORED).sum(dim=2)

    def real(self) -> Tensor:
        """Which of them [B, K] are there, each only where it stands first."""
        same = (self.labels[:, :, None] == self.labels[:, None]).all(dim=3)
        return ~same.tril(-1).any(dim=2) & (self.lengths() > 0)


def pack(candidates: Sequence[Sequence[Candidate]], end: int, device: torch.device) -> Packed:
    """Side by side, each row filled up with empty candidates to the longest row."""
    copies = max(len(row) for row in candidates)
    filled = [[*row, *[None] * (copies - len(row))] for row in candidates]
    flat = [candidate for row in filled for candidate in row]
    target = pad([[end] if one is None else _inputs(one, end) for one in flat], end)
    labels = pad([[IGNORED] if one is None else [*one.ids, *[end] * one.ended] for one in flat], IGNORED)
    shape = (len(candidates), copies, -1)
    return Packed(target.view(shape).to(device), labels.view(shape).to(device))


def _inputs(candidate: Candidate, end: int) -> Ids:
    return [end, *candidate.ids] if candidate.ended else [end, *candidate.ids[:-1]]


def gold(batch: Batch, end: int) -> list[Candidate]:
    """The targets of a batch as candidates."""
    rows = [row[row != IGNORED].tolist() for row in batch.labels]
    return [Candidate(row[:-1] if row[-1:] == [end] else row, row[-1:] == [end]) for row in rows]


def rewards(
    candidates: Sequence[Sequence[Candidate]], golds: Sequence[Candidate], metric: Metric, vocabulary: Vocabulary
) -> Tensor:
    """The metric [B, K] of each candidate's text against the text of its gold target; 0 where there is none."""
    found = []
    for row, target in zip(candidates, golds, strict=True):
        reference = vocabulary.decode(target.ids)
        found.append([metric(vocabulary.decode(candidate.ids), reference) for candidate in row])
    width = max(len(row) for row in found)
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in found])


def sample(
    batch: Batch, context: StepContext, copies: int, max_length: int, end: int, greedy: bool = False
) -> list[list[Candidate]]:
    """So many targets for each source, drawn token by token from the model, or its likeliest tokens.

    What a row draws depends on its own seed, its candidate and its column alone. The target has no dropout; the
    encoded source is the step's. Where parameters are sharded they are gathered once, so that processes may end at
    different lengths.
    """
    model, training = context.passes.model, context.passes.model.training
    memory = context.passes.memory(batch)  # here, as the loss reads the same one and needs its gradients
    uniform = None if greedy else _uniform(context.draws, copies, max_length)
    model.eval()
    with torch.no_grad(), gathered(context.passes.root):
        ids = _search(model, memory, len(batch.source) * copies, max_length, end, uniform)
    model.train(training)
    return [[_until(end, candidate) for candidate in row] for row in ids.unflatten(0, (-1, copies)).tolist()]


def _search(
    model: PrefixTransformer, memory: Memory, rows: int, max_length: int, end: int, uniform: Tensor | None
) -> Tensor:
    """The tokens [B K, columns] by these numbers [B K, max_length], or the likeliest, until all have ended."""
    tokens, cache, columns = torch.full((rows,), end, device=memory.lengths.device), None, []
    done = torch.zeros_like(tokens, dtype=torch.bool)
    for column in range(max_length):
        hidden, cache = model.step(tokens, column, memory, cache)
        logits = model.logits(hidden).float()
        tokens = logits.argmax(dim=-1) if uniform is None else _draw(logits, uniform[:, column])
        columns.append(tokens)
        done |= tokens == end
        if bool(done.all()):
            break
    return torch.stack(columns, dim=1)


def _uniform(draws: Draws, copies: int, max_length: int) -> Tensor:
    """A number for each row of the search and each column, [B K, max_length]."""
    return draws.uniform("sample", copies, max_length).flatten(0, 1)


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample [N] of each row's softmax."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    place = torch.searchsorted(cumulated, uniform[:, None].double() * cumulated[:, -1:], right=True)[:, 0]
    return place.clamp(max=logits.shape[1] - 1)


def _until(end: int, ids: Ids) -> Candidate:
    return Candidate(ids[: ids.index(end)], True) if end in ids else Candidate(ids, False)


class Stored(NamedTuple):
    """Candidates of a file of decoded JSONL, by the ids of their source, each with its log-probability then."""

    path: str
    rows: dict[tuple[int, ...], list[tuple[Candidate, float]]]

    def find(self, batch: Batch, count: int) -> list[list[tuple[Candidate, float]]]:
        """The first so many of each source of a batch."""
        lengths = batch.source_lengths.tolist()
        keys = [tuple(row[:length]) for row, length in zip(batch.source.tolist(), lengths, strict=True)]
        missing = next((key for key in keys if key not in self.rows), None)
        if missing is not None:
            raise UserError(f"{self.path}: no candidates for the source with the ids {missing}")
        return [self.rows[key][:count] for key in keys]


CHANGING = ("length_penalty", "translation_alpha", "word_reward", "coverage_penalty", "utility")
"""Keys of a search with which its scores are no log-probabilities."""


def read(path: str, context: TrainingContext) -> Stored:
    """Read candidates as ``scripts/decode.py`` writes them (JSONL, search.n_best, and log-probabilities for scores).

    Any other format with the same fields will do.
    A file that names no search.max_length was decoded with the default: the longest target of training.
    Errors: a UserError for a line that is not such, and for training sources without candidates.
    """
    rows = {}
    for number, row in _rows(path):
        source, found = _parse(row, f"{path}:{number}", context)
        rows[source] = found
    sources = context.train().sources
    missing = sum(tuple(source) not in rows for source in sources)
    if missing:
        raise UserError(f"path: {path} has no candidates for {missing} of {len(sources)} training sources")
    return Stored(path, rows)


def _rows(path: str) -> Iterator[Found]:
    try:
        yield from read_rows(Path(path), ("source", "settings", "hypotheses"), lambda _: None)
    except UserError as error:
        raise UserError(f"path: {error}") from error


def _parse(
    row: Row | ValueError, place: str, context: TrainingContext
) -> tuple[tuple[int, ...], list[tuple[Candidate, float]]]:
    vocabulary = context.vocabulary
    try:
        if isinstance(row, ValueError):
            raise row
        source = vocabulary.source_ids(vocabulary.encode(row["source"]), context.max_source)
        limit = row["settings"]["max_length"] or context.max_length
        changed = [(key, value) for key in CHANGING if (value := row["settings"].get(key))]
        found = [
            (Candidate([int(token) for token in one["tokens"]], len(one["tokens"]) != limit), float(one["score"]))
            for one in row["hypotheses"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: not a line of decoded JSONL ({type(error).__name__}: {error})") from error
    if changed:
        key, value = changed[0]
        raise UserError(f"{place}: decoded with search.{key}={value}, so that scores are no log-probabilities")
    if not found or not all(0 <= token < vocabulary.size for one, _ in found for token in one.ids):
        raise UserError(f"{place}: no hypotheses, or tokens of another vocabulary")
    return tuple(source), found
