"""The live hypotheses of many sources as one rectangle, and its growth by a token.

Shapes: S live sources, K places for hypotheses of each, t tokens of each hypothesis, V tokens of the vocabulary.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Hypothesis = tuple[list[int], float]
"""The tokens without begin and end, and the score."""

CHUNK = 64
"""The columns of a chunk in ``largest``, which looks for the greatest entries of a vocabulary chunk by chunk."""


class NotANumberError(ValueError):
    """An error of a scorer: a log-probability is NaN, so no hypothesis can be the best."""


class Hypotheses(NamedTuple):
    """Hypotheses of length t, K places for each of S sources; a place whose sum is -inf is empty."""

    sources: list[int]  # [S] the numbers of the sources, ascending
    tokens: Tensor  # int64 [S, K, 1 + t], begin first
    sums: Tensor  # [S, K] summed log-probabilities

    @property
    def length(self) -> int:
        """The number of tokens of each hypothesis, an end included."""
        return self.tokens.size(2) - 1


def for_each_source(name: str, lengths: int | Sequence[int], sources: int) -> list[int]:
    """Return a length for each source; raise a ValueError for a wrong number of lengths or a negative one."""
    values = [lengths] * sources if isinstance(lengths, int) else list(lengths)
    if len(values) != sources:
        raise ValueError(f"{name} has {len(values)} values for {sources} sources")
    if min(values, default=0) < 0:
        raise ValueError(f"{name} must be at least 0, got {min(values)}")
    return values


def begin(token: int, max_length: list[int]) -> Hypotheses:
    """Return a hypothesis with only the begin for each source, on the CPU; an empty place where the length is 0."""
    # A source of length 0 takes part in the first step, so that the first reorder is always from 1 row to a beam.
    sums = torch.tensor([[0.0 if longest else -math.inf] for longest in max_length])
    return Hypotheses(list(range(len(max_length))), torch.full((len(max_length), 1, 1), token), sums)


def expansion_sums(live: Hypotheses, log_probs: Tensor) -> Tensor:
    """Return the sums [S, K, V] of all expansions for ``log_probs`` [S * K, V]; raise a NotANumberError for a NaN."""
    sums = live.sums.to(log_probs.device)[:, :, None] + log_probs.unflatten(0, live.sums.shape)
    refuse_nan(live, sums)
    return sums


def nan_at(step: int, source: int) -> NotANumberError:
    """Return the error of a log-probability that is NaN."""
    return NotANumberError(f"log-probability is NaN at step {step}, source {source}")


def refuse_nan(live: Hypotheses, sums: Tensor) -> None:
    """Raise a NotANumberError that names the step and the source where one of the sums [S, ...] is NaN."""
    bad = sums.isnan().flatten(1).any(dim=1).tolist()
    if any(bad):
        raise nan_at(live.length + 1, live.sources[bad.index(True)])


def expand(live: Hypotheses, sums: Tensor, beams: int) -> tuple[Hypotheses, Tensor]:
    """Return the best expansions of each source, best first, and the row [S, K] of ``live`` that each one expands.

    ``sums`` [S, K, V] are those of the expansions; the result has ``beams`` places, or fewer where there are fewer
    expansions.
    """
    vocabulary = sums.size(2)
    best, flat = sums.flatten(1).topk(min(beams, sums[0].numel()))
    return grown(live, flat // vocabulary, flat % vocabulary, best)


def expand_best(
    live: Hypotheses, log_probs: Tensor, beams: int, early: Tensor | None, end: int
) -> tuple[Hypotheses, Tensor]:
    """Do the same from log-probabilities [S * K, V], where hypotheses of the sources ``early`` [S] may not end yet.

    With one beam, the first of equal expansions is the best, as in ``greedy_stream``: bfloat16 has many equal ones.
    Where a log-probability is NaN, so is the first sum: NaN counts as the greatest.
    """
    # One more candidate, as below, would mean ``topk``, which promises no order of equal expansions.
    if beams == 1 and early is not None:
        log_probs = log_probs.clone()
        log_probs[:, end].masked_fill_(early, -math.inf)
        early = None
    # A source's best expansions are among the best of each hypothesis, so no sums [S, K, V] are made; one more makes
    # up for an end that may not come.
    count = min(beams + (early is not None), log_probs.size(1))
    values, tokens = (part.unflatten(0, live.sums.shape) for part in largest(log_probs, count))
    sums = on_device(live.sums, values.device)[:, :, None] + values
    if early is not None:
        sums = sums.masked_fill((tokens == end) & early[:, None, None] & ~sums.isnan(), -math.inf)
    best, flat = sums.flatten(1).topk(min(beams, live.sums.size(1) * log_probs.size(1), sums[0].numel()))
    return grown(live, flat // count, tokens.flatten(1).gather(1, flat), best)


def grown(live: Hypotheses, parents: Tensor, tokens: Tensor, sums: Tensor) -> tuple[Hypotheses, Tensor]:
    """Return the hypotheses of the places ``parents`` [S, K] with the ``tokens`` [S, K] added, and their old rows."""
    sources, places = live.sums.shape
    rows = parents + places * torch.arange(sources, device=parents.device)[:, None]
    histories = on_device(live.tokens, parents.device).flatten(0, 1)[rows]
    return Hypotheses(live.sources, torch.cat([histories, tokens[:, :, None]], dim=2), sums), rows


def largest(table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest entries of each row [N, V] and their columns, as ``torch.topk`` does, but faster.

    They are in the ``count`` chunks of columns with the largest maxima, which one pass over the row finds. A single
    entry is the first of equal ones.
    """
    if count == 1:
        values, indices = table.max(dim=1, keepdim=True)
        return values, indices
    rows, columns = table.shape
    chunks = columns // CHUNK
    if chunks <= count:
        values, indices = table.topk(count)
        return values, indices
    whole = table[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK))
    picked = whole.amax(dim=2).topk(count).indices
    candidates = whole.gather(1, picked[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
    numbers = (picked[:, :, None] * CHUNK + torch.arange(CHUNK, device=table.device)).flatten(1)
    rest = torch.arange(chunks * CHUNK, columns, device=table.device).expand(rows, -1)
    values, indices = torch.cat([candidates, table[:, chunks * CHUNK :]], dim=1).topk(count)
    return values, torch.cat([numbers, rest], dim=1).gather(1, indices)


def survive(growing: Hypotheses, rows: Tensor, unfinished: list[int], beams: int) -> tuple[Hypotheses, Tensor]:
    """Return the ``unfinished`` sources with ``beams`` places each, and the scorer's row that each place expands.

    An empty place repeats the best hypothesis of its source, with a sum of -inf, so that the scorer always sees a full
    rectangle.
    """
    whole = len(unfinished) == len(growing.sources) and rows.size(1) == beams
    # The lines below would only copy everything, but a GPU copies faster than it answers whether a place is empty.
    if whole and (beams == 1 or (not rows.is_cuda and bool((growing.sums > -math.inf).all()))):
        return growing, rows.flatten()
    picked = on_device(torch.tensor(unfinished), rows.device)
    sums = pad(growing.sums[picked], (0, beams - rows.size(1)), value=-math.inf)
    places = torch.arange(beams, device=rows.device).where(sums > -math.inf, sums.argmax(dim=1, keepdim=True))
    live = Hypotheses([growing.sources[row] for row in unfinished], growing.tokens[picked[:, None], places], sums)
    return live, rows[picked[:, None], places].flatten()


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; from the CPU a GPU gets it by memory that it reads without a wait of the host."""
    pinned = device.type == "cuda" and values.device.type == "cpu"
    return values.pin_memory().to(device, non_blocking=True) if pinned else values.to(device)


def on_host(steps: list[Hypotheses]) -> list[Hypotheses]:
    """Return the hypotheses of some steps on the CPU; a GPU is waited for once."""
    if not steps[0].sums.is_cuda:
        return [step._replace(tokens=step.tokens.cpu(), sums=step.sums.cpu()) for step in steps]
    # One copy for all: float64 has each token's id and each sum, of single precision too, exactly.
    tables = [torch.cat([step.tokens.double(), step.sums.double()[:, :, None]], dim=2) for step in steps]
    parts = torch.cat([table.flatten() for table in tables]).cpu().split([table.numel() for table in tables])
    together = zip(steps, (part.view(table.shape) for part, table in zip(parts, tables, strict=True)), strict=True)
    return [step._replace(tokens=table[:, :, :-1].long(), sums=table[:, :, -1]) for step, table in together]
