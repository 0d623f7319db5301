"""What tests of sequence-level methods share: letters as a vocabulary, and candidates that are decoded one by one."""

import json
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import torch
from hypothesis import strategies as st
from naive import Example, assert_adds_nothing, cross_entropy, gradient, mean_over, predict
from torch import Tensor, nn

from s2s.batch import IGNORED, Batch, count
from s2s.data.batches import TokenisedSplit
from s2s.losses.passes import Passes
from s2s.metrics.sentence import Metric
from s2s.mitigations import MITIGATIONS, TrainingContext
from s2s.mitigations.base import PreparedMethod, StepContext
from s2s.mitigations.candidates import Candidate
from s2s.objective import Objective, ObjectiveSettings
from s2s.randomness import Draws
from s2s.runs.checkpoints import load_model
from s2s.vocabulary import Vocabulary

BEGIN, END, SIZE = 2, 3, 23
MAX_LENGTH = 4
Rows = list[list[Candidate]]


class Letters(Vocabulary):
    """A word of one letter is an id; 4 is "a"."""

    padding, begin, end = 0, BEGIN, END

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 4 for letter in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(chr(token - 4 + ord("a")) for token in ids if token not in (0, BEGIN, END))

    def spell(self) -> list[bytes]:
        return [self.decode([token]).encode() for token in range(self.size)]

    def save(self, folder: Path) -> None:
        """It has nothing to save."""


def shared(hypothesis: str, reference: str) -> float:
    """A metric whose values, in 32nds, float32 holds exactly: it counts shared letters, and a little how many."""
    words = hypothesis.split()
    return min(len(set(words) & set(reference.split())) * 8 + len(words), 32) / 32


def spelling(hypothesis: str, reference: str) -> float:  # noqa: ARG001
    """A metric that tells any two texts apart."""
    return crc32(hypothesis.encode()) / 2**32


METRIC = "sequences:shared"


def training_context(
    sources: Sequence[Sequence[int]] = (), max_length: int = MAX_LENGTH, size: int = SIZE
) -> TrainingContext:
    train = TokenisedSplit([list(source) for source in sources], [[] for _ in sources], [])
    return TrainingContext(Letters(size), lambda: train, max_source=20, max_length=max_length, load_model=load_model)


def objective_of(
    model: nn.Module, name: str, given: TrainingContext | None = None, smoothing: float = 0.0, **keys: object
) -> Objective:
    method = MITIGATIONS[name](**keys)
    prepared = method.prepare(given or training_context(size=model.shape.vocabulary))
    return Objective(model, ObjectiveSettings(smoothing), [PreparedMethod(name, method, prepared)])


def context_of(
    batch: Batch, model: nn.Module | None = None, name: str = "mrt", strength: float = 1.0, prepared: object = None
) -> StepContext:
    passes = None if model is None else Passes(model, 0.0, model)
    return StepContext(passes, Draws(batch.seeds, name), count(batch), 0, strength, prepared)


def feed(row: PreparedMethod, batch: Batch, context: StepContext) -> Batch:
    """The batch as a prefix method edits it, with what the method prepared."""
    return row.method.feed(batch, context._replace(prepared=row.prepared))  # type: ignore[attr-defined]


def source_of(batch: Batch, row: int) -> list[int]:
    return batch.source[row, : int(batch.source_lengths[row])].tolist()


def target_of(batch: Batch, row: int) -> Candidate:
    return Candidate([label for label in batch.labels[row].tolist() if label != IGNORED][:-1], True)


def log_prob(model: nn.Module, batch: Batch, row: int, candidate: Candidate) -> Tensor:
    """The summed log-probability of one candidate of one source, alone in the model."""
    labels = [*candidate.ids, END] if candidate.ended else candidate.ids
    source, inputs = torch.tensor(source_of(batch, row)), torch.tensor([END, *labels[:-1]])
    chances = predict(model, Example(row, source, inputs, torch.tensor(labels)))
    total = chances.new_zeros(())
    for column, label in enumerate(labels):
        total = total + chances[column, label]
    return total


def unique(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for index, candidate in enumerate(candidates) if candidate not in candidates[:index]]


def reward(candidate: Candidate, batch: Batch, row: int, metric: Metric = shared) -> float:
    """The metric against the row's target, rounded to float32 as rewards are."""
    letters = Letters()
    return float(torch.tensor(metric(letters.decode(candidate.ids), letters.decode(target_of(batch, row).ids))))


def forced(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Teacher forcing, example after example."""
    return mean_over(batch, lambda example: cross_entropy(predict(model, example), example.labels, smoothing))


@torch.no_grad()
def searched(
    model: nn.Module, batch: Batch, row: int, numbers: Sequence[float] | None, max_length: int = MAX_LENGTH
) -> Candidate:
    """One candidate of one source: a whole pass for each token, the likeliest one or by inversion of the sums."""
    source, ids = torch.tensor(source_of(batch, row)), []
    for column in range(max_length):
        inputs = torch.tensor([END, *ids])
        chances = predict(model, Example(row, source, inputs, inputs))[-1].exp().tolist()
        if numbers is None:
            token = chances.index(max(chances))
        else:
            token, sums = 0, chances[0]
            while sums <= numbers[column]:
                token, sums = token + 1, sums + chances[token + 1]
        if token == END:
            return Candidate(ids, True)
        ids.append(token)
    return Candidate(ids, False)


def sampled(model: nn.Module, batch: Batch, name: str, copies: int, max_length: int = MAX_LENGTH) -> Rows:
    """The candidates that each row's own numbers lead to."""
    candidates = []
    for row in range(len(batch.source)):
        numbers = Draws(batch.seeds[row][None], name).uniform("sample", copies, max_length)[0].tolist()
        candidates.append([searched(model, batch, row, row_numbers, max_length) for row_numbers in numbers])
    return candidates


def write_decoded(path: Path, batch: Batch, rows: Rows, scores: list[list[float]], **settings: object) -> str:
    """A file as the decoder writes it, one line for each source."""
    lines = []
    for row, candidates in enumerate(rows):
        source = Letters().decode(source_of(batch, row))
        hypotheses = [{"text": Letters().decode(candidate.ids), "score": score, "tokens": candidate.ids}
                      for candidate, score in zip(candidates, scores[row], strict=True)]  # fmt: skip
        fields = {"max_length": MAX_LENGTH, "length_penalty": 0.0} | settings
        lines.append(json.dumps({"id": row, "source": source, "hypotheses": hypotheses, "settings": fields}))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def candidates_strategy(most: int = 5, letters: int = SIZE) -> st.SearchStrategy[list[Candidate]]:
    """Distinct candidates, ended ones of up to 3 tokens and others of exactly the limit."""
    token = st.integers(4, letters - 1)
    ended = st.lists(token, max_size=MAX_LENGTH - 1).map(lambda ids: Candidate(ids, True))
    full = st.lists(token, min_size=MAX_LENGTH, max_size=MAX_LENGTH).map(lambda ids: Candidate(ids, False))
    return st.lists(ended | full, min_size=1, max_size=most, unique_by=str)


def with_idle(batch: Batch, *rows: int) -> Batch:
    """The batch with some rows ignored."""
    labels = batch.labels.clone()
    labels[list(rows)] = IGNORED
    return batch._replace(labels=labels)


def assert_idle_rows_add_nothing(objective: Objective, batch: Batch, others: Batch) -> None:
    """A batch whose other rows are ignored has the loss and the gradient of those that are not; all ignored, none."""
    mixed, alone = objective(batch), objective(others)
    torch.testing.assert_close(mixed.total, alone.total, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(
        gradient(objective, mixed.total), gradient(objective, alone.total), rtol=1e-9, atol=1e-11
    )
    assert_adds_nothing(objective, with_idle(batch, *range(len(batch.source))))
    objective.zero_grad()
