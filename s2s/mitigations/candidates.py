"""Candidates for a source: sampled from the model, or read from a file of decoded JSONL; their log-probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch, pad
from s2s.config.outside_names import outside
from s2s.config.ranges import Few
from s2s.data.readers import Found, read_rows
from s2s.data.rows import Row
from s2s.errors import UserError
from s2s.losses.fsdp import gathered
from s2s.losses.passes import Passes
from s2s.metrics.sentence import METRICS, Metric, check_metric, sentence_metric
from s2s.mitigations.base import SequenceLossMethod, StepContext, TrainingContext
from s2s.model.backbone import Backbone, Memory, evaluating
from s2s.vocabulary import Vocabulary

Ids = list[int]
LOOK = 8
"""Tokens after which a GPU is asked whether all candidates have ended; asked at each token, it would be waited for."""


class Candidate(NamedTuple):
    """Ids without begin and end, and whether the end follows them; it does not where a search reached its limit."""

    ids: Ids
    ended: bool


class Packed(NamedTuple):
    """K candidates of each source: decoder inputs and labels [B, K, L]; rows without labels only fill up."""

    target: Tensor
    labels: Tensor

    def log_probs(self, passes: Passes, batch: Batch) -> Tensor:
        """Return the log-probability [B, K] of each candidate, its end included, from one pass over all of them."""
        rows, copies, _ = self.labels.shape
        packed = batch._replace(target=self.target.flatten(1), labels=self.labels.flatten(1))
        scores = passes.score(packed, copies=copies)
        owner = torch.arange(rows * copies, device=self.labels.device).view(rows, copies, 1).expand_as(self.labels)
        sums = scores.logits.new_zeros(rows * copies)
        return sums.index_add(0, owner[self.labels != IGNORED], scores.log_probs()).view(rows, copies)

    def lengths(self) -> Tensor:
        """Return the number of labels [B, K] of each candidate, its end included."""
        return (self.labels != IGNORED).sum(dim=2)

    def distinct(self) -> Tensor:
        """Return which [B, K] are candidates and not the repetition of an earlier one in their row."""
        same = (self.labels[:, :, None] == self.labels[:, None]).all(dim=3)
        return ~same.tril(-1).any(dim=2) & (self.lengths() > 0)


def pack(candidates: Sequence[Sequence[Candidate]], begin: Tensor, end: int) -> Packed:
    """Pack candidates for one pass; rows with fewer than the longest row are filled up with empty ones.

    ``begin`` [B] opens the decoder's inputs of each row.
    """
    copies = max(len(row) for row in candidates)
    filled = [[*row, *[None] * (copies - len(row))] for row in candidates]
    labels, inputs = [], []
    for first, row in zip(begin.tolist(), filled, strict=True):
        for candidate in row:
            labels.append([IGNORED] if candidate is None else [*candidate.ids, *[end] * candidate.ended])
            inputs.append([first, *labels[-1][:-1]])
    packed_inputs, packed_labels = pad(inputs, end), pad(labels, IGNORED)
    shape = (len(candidates), copies, -1)
    return Packed(packed_inputs.view(shape).to(begin.device), packed_labels.view(shape).to(begin.device))


def gold(batch: Batch, end: int) -> list[Candidate]:
    """Return the targets of a batch as candidates."""
    rows = [[label for label in row if label != IGNORED] for row in batch.labels.tolist()]
    return [Candidate(row[:-1] if row[-1:] == [end] else row, row[-1:] == [end]) for row in rows]


def rewards(
    candidates: Sequence[Sequence[Candidate]], golds: Sequence[Candidate], metric: Metric, vocabulary: Vocabulary
) -> Tensor:
    """Return the metric [B, K] of each candidate's text against the gold target's; 0 where a row has fewer."""
    values = []
    for row, target in zip(candidates, golds, strict=True):
        reference = vocabulary.decode(target.ids)
        values.append([metric(vocabulary.decode(candidate.ids), reference) for candidate in row])
    width = max(len(row) for row in values)
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in values])


def sample(
    batch: Batch,
    context: StepContext,
    copies: int,
    max_length: int,
    end: int,
    greedy: bool = False,
    rows: Tensor | None = None,
    size: int | None = None,
) -> list[list[Candidate]]:
    """Draw ``copies`` candidates for each source token by token from the model, or take its likeliest tokens.

    A draw depends only on the row's seed, the number of the candidate and the column. The target has no dropout; the
    encoded source is that of the step, with its dropout. With ``rows`` [R] only these sources get candidates; without
    any of them the parameters are gathered all the same, as other processes wait for that. ``size`` cuts the model's
    table to a vocabulary's pieces, where it has more rows.
    """
    model = context.passes.model
    # Outside of no_grad: the loss reads the same memory and needs its gradients.
    memory, draws, begin = context.passes.memory(batch), context.draws, batch.target[:, 0]
    if rows is not None:
        memory, draws, begin = memory.rows(rows), draws._replace(seeds=draws.seeds[rows]), begin[rows]
    uniform = None if greedy else draws.uniform("sample", copies, max_length).flatten(0, 1)
    # Sharded parameters are gathered once for the whole search: gathering them at every token would wait for all
    # processes, and they end at different lengths.
    with evaluating(model), torch.no_grad(), gathered(context.passes.root):
        first = begin.repeat_interleave(copies)
        ids = _search(model, memory.contiguous(), first, max_length, end, uniform, size).tolist() if len(first) else []
    # All rows grow until the last one has ended; tokens after a row's first end are not of its candidate.
    drawn = [Candidate(row[: row.index(end)], True) if end in row else Candidate(row, False) for row in ids]
    return [drawn[start : start + copies] for start in range(0, len(drawn), copies)]


def _search(
    model: Backbone,
    memory: Memory,
    begin: Tensor,
    max_length: int,
    end: int,
    uniform: Tensor | None,
    size: int | None,
) -> Tensor:
    """Return tokens [B K, columns] by uniform numbers [B K, max_length], or the likeliest, until all have ended.

    ``begin`` [B K] are the inputs of column 0.
    """
    tokens, cache, columns = begin, None, []
    every = 1 if begin.device.type == "cpu" else LOOK
    done = torch.zeros_like(tokens, dtype=torch.bool)
    for column in range(max_length):
        hidden, cache = model.step(tokens, column, memory, cache)
        logits = model.logits(hidden)[:, :size].float()
        tokens = logits.argmax(dim=-1) if uniform is None else _draw(logits, uniform[:, column])
        columns.append(tokens)
        done |= tokens == end
        if (column + 1) % every == 0 and bool(done.all()):
            break
    return torch.stack(columns, dim=1)


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return a sample [N] of each row's softmax, by inversion of its cumulated probabilities."""
    # In double: float32's cumulated sums over a vocabulary may end below 1 and hide the last tokens.
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(cumulated, uniform[:, None].double() * cumulated[:, -1:], right=True)[:, 0]
    return index.clamp(max=logits.shape[1] - 1)


class Stored(NamedTuple):
    """The candidates of a file of decoded JSONL by the ids of their source, each with its log-probability then."""

    path: str
    rows: dict[tuple[int, ...], list[tuple[Candidate, float]]]

    def find(self, batch: Batch, count: int) -> list[list[tuple[Candidate, float]]]:
        """Return the first ``count`` candidates of each source of a batch."""
        lengths = batch.source_lengths.tolist()
        keys = [tuple(row[:length]) for row, length in zip(batch.source.tolist(), lengths, strict=True)]
        missing = next((key for key in keys if key not in self.rows), None)
        if missing is not None:
            raise UserError(f"{self.path}: no candidates for the source with the ids {missing}")
        return [self.rows[key][:count] for key in keys]


CHANGING = ("length_penalty", "translation_alpha", "word_reward", "coverage_penalty", "utility")
"""Keys of a search that change its scores, so that they are no log-probabilities."""


def read(path: str, context: TrainingContext) -> Stored:
    """Read the candidates that ``scripts/decode.py`` writes with search.n_best, in JSONL or in any format of the data.

    Errors: a UserError for a line without the fields, and for training sources without candidates.
    """
    rows = {}
    for number, row in _rows(path):
        source, candidates = _parse(row, f"{path}:{number}", context)
        rows[source] = candidates
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
    row: Row | ValueError, line: str, context: TrainingContext
) -> tuple[tuple[int, ...], list[tuple[Candidate, float]]]:
    vocabulary = context.vocabulary
    try:
        if isinstance(row, ValueError):
            raise row
        source = vocabulary.source_ids(vocabulary.encode_sources([row["source"]])[0], context.max_source)
        # Without search.max_length the search stopped at the longest target of training.
        limit = row["settings"]["max_length"] or context.max_length
        changed = [(key, value) for key in CHANGING if (value := row["settings"].get(key))]
        candidates = [
            (Candidate([int(token) for token in tokens], len(tokens) != limit), float(score))
            for tokens, score in ((hypothesis["tokens"], hypothesis["score"]) for hypothesis in row["hypotheses"])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{line}: not a line of decoded JSONL ({type(error).__name__}: {error})") from error
    if changed:
        key, value = changed[0]
        raise UserError(f"{line}: decoded with search.{key}={value}, so that scores are no log-probabilities")
    if not candidates or not all(
        0 <= token < vocabulary.size for candidate, _ in candidates for token in candidate.ids
    ):
        raise UserError(f"{line}: no hypotheses, or tokens of another vocabulary")
    return tuple(source), candidates


class CandidateTools(NamedTuple):
    """Everything needed to sample, pack and compare candidates; ``stored`` are those of a file, if there is one."""

    vocabulary: Vocabulary
    max_length: int
    metric: Metric
    stored: Stored | None = None

    def rewards(self, candidates: list[list[Candidate]], batch: Batch) -> Tensor:
        """Return the metric [B, K] of candidates against the batch's targets."""
        golds = gold(batch, self.vocabulary.end)
        return rewards(candidates, golds, self.metric, self.vocabulary).to(batch.source.device)

    def sample(self, batch: Batch, context: StepContext, count: int, greedy: bool = False) -> list[list[Candidate]]:
        """Sample ``count`` candidates for each source, or search the likeliest tokens."""
        vocabulary = self.vocabulary
        return sample(batch, context, count, self.max_length, vocabulary.end, greedy, size=vocabulary.size)

    def pack(self, candidates: list[list[Candidate]], batch: Batch) -> Packed:
        """Pack candidates for one pass on the batch's device."""
        return pack(candidates, batch.target[:, 0], self.vocabulary.end)


@dataclass
class Sampled(SequenceLossMethod):
    """The keys of methods that compare candidates by a metric."""

    candidates: Few = 8  # of each source
    # a name of s2s.metrics.sentence.METRICS, or module:function of (hypothesis, reference)
    metric: str = field(default="chrf", metadata=outside("module:function", METRICS))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric(self.metric)

    def prepare(self, context: TrainingContext) -> CandidateTools:
        return CandidateTools(context.vocabulary, context.max_length, sentence_metric(self.metric))

    def teaches(self) -> set[str]:
        return {"own_errors"}


def has_labels(batch: Batch) -> Tensor:
    """Return which rows [B] have a label: a process without examples computes rows that have none."""
    return (batch.labels != IGNORED).any(dim=1)
