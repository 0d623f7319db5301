"""Distillation from trained runs, on gold targets and on the student's own samples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import IGNORED, Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import PathText, Positive, Range, Share
from s2s.errors import UserError, nearest
from s2s.losses.divergence_loss import divergence_loss
from s2s.losses.passes import Passes
from s2s.losses.terms import Term, row_divergences
from s2s.mitigations.base import Composition, LossMethod, LossTerms, PrefixMethod, StepContext, TrainingContext
from s2s.mitigations.candidates import has_labels, pack, sample
from s2s.model.backbone import Backbone
from s2s.model.output_rows import OutputRows
from s2s.vocabulary.base import same_pieces


def _jsd(p: Tensor, q: Tensor, beta: float) -> Tensor:
    mixed = torch.logaddexp(p + log(beta), q + log(1 - beta))
    return beta * row_divergences(p, mixed) + (1 - beta) * row_divergences(q, mixed)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": lambda p, q, _: row_divergences(p, q),
    "reverse_kl": lambda p, q, _: row_divergences(q, p),
    "jsd": _jsd,
}
"""The divergence [n] of the log-probabilities p of the teacher and q of the student, each [n, V]; ``beta`` is jsd's."""


class Teachers(NamedTuple):
    """The frozen models, and the limit, the end and the number of pieces of the student's samples."""

    models: list[Backbone]
    max_length: int
    end: int
    pieces: int


@dataclass
class Distillation(LossMethod):
    """(1 - weight) CE + weight D(P || Q), at each target token, of the teacher's next token P and the student's Q.

    Divergences: forward_kl KL(P || Q); reverse_kl KL(Q || P); jsd beta KL(P || M) + (1 - beta) KL(Q || M) with M =
    beta P + (1 - beta) Q (Agarwal et al. 2024, GKD, equation 1). Of several teachers P is the mean. Scores of both
    sides are divided by ``temperature``, and D is multiplied by its square, which keeps the size of the gradients
    (Hinton et al. 2015).

    The share ``on_policy`` of the examples, drawn one by one, has a sample of the student in place of its gold target.
    It is drawn at temperature 1, without gradient, at most data.max_target long, and D is taken at each of its tokens,
    the end included. A sample's mean counts for the tokens of its gold target, so that the unit is target tokens and
    the parts of an update add up. CE is of all gold targets and of no sample. On gold targets, teacher and student both
    read the prefixes as prefix methods have edited them. At on_policy 0 with forward_kl this is word-level distillation
    (Kim and Rush 2016). Teachers need the student's vocabulary, and have no dropout. Cost: a pass of each teacher
    without gradients; on policy also the sampling. Teacher forcing at weight 0.
    """

    # the folder of a trained run, or a list of them
    teacher: PathText | list[PathText] = field(default="", metadata=outside("FOLDER"))
    divergence: str = "forward_kl"  # a row of DIVERGENCES: forward_kl, reverse_kl or jsd
    beta: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.5  # of jsd: the teacher's share of its M
    on_policy: Share = 0.5  # share of the examples whose target is the student's own sample
    temperature: Positive = 1.0  # of teacher and student within the divergence

    def teaches(self) -> set[str]:
        return {"own_errors"} if self.on_policy else set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divergence not in DIVERGENCES:
            raise UserError(f"divergence: no '{self.divergence}'{nearest(self.divergence, DIVERGENCES)}")
        if not self.teacher:
            raise UserError("teacher: the folder of a trained run is needed, or a list of them")

    def refuse(self, composition: Composition) -> str | None:
        if min(self.weight, self.on_policy) < 1:
            return None
        if not any(isinstance(method, PrefixMethod) for method in composition.mitigations):
            return None
        return "at weight 1 and on_policy 1 nothing reads the prefixes that other methods edit; lower one of them"

    def prepare(self, context: TrainingContext) -> Teachers:
        """Load the teachers, which have to have the vocabulary of the student and room for its examples."""
        folders = self.teacher if isinstance(self.teacher, list) else [self.teacher]
        models = [_load(folder, context) for folder in folders]
        return Teachers(models, context.max_length, context.vocabulary.end, context.vocabulary.size)

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        passes, share = context.passes, self.share(context)
        batch, sampled = self._with_samples(clean, fed, context) if self.on_policy else (fed, None)
        output = _output(passes, batch)
        with torch.no_grad():
            teachers = [_taught(model, passes.model, batch) for model in context.prepared.models]
        weights = _weights(batch, clean, sampled, torch.promote_types(output.hidden.dtype, torch.float32))
        formula = DIVERGENCES[self.divergence]
        method = divergence_loss(
            output, teachers, weights, lambda p, q: formula(p, q, self.beta), temperature=self.temperature
        )
        terms = {"distillation": Term(share * method)}
        if share == 1:
            return LossTerms(terms, None)
        # A pass of its own with samples, as their gold targets count too. Also where this batch has no sample: other
        # processes may have some, and sharded parameters are gathered by all processes together.
        entropy, nll = passes.losses(fed, None if self.on_policy else output)
        return LossTerms({"cross_entropy": Term((1 - share) * entropy), **terms}, nll)

    def _with_samples(self, clean: Batch, fed: Batch, context: StepContext) -> tuple[Batch, Tensor]:
        """Return the fed batch with samples as the targets of some rows, and the indices of these."""
        teachers: Teachers = context.prepared
        drawn = context.draws.uniform("on_policy", 1)[:, 0] < self.on_policy
        # Rows without labels keep an idle process in step, and need no sample.
        rows = (drawn & has_labels(clean)).nonzero()[:, 0]
        samples = sample(fed, context, 1, teachers.max_length, teachers.end, rows=rows, size=teachers.pieces)
        if not samples:
            return fed, rows
        packed = pack(samples, fed.target[rows, 0], teachers.end)
        width = max(fed.target.shape[1], packed.target.shape[-1])
        target, labels = _padded(fed.target, width, teachers.end), _padded(fed.labels, width, IGNORED)
        target[rows] = _padded(packed.target[:, 0], width, teachers.end)
        labels[rows] = _padded(packed.labels[:, 0], width, IGNORED)
        return fed._replace(target=target, labels=labels), rows


def _load(folder: str, context: TrainingContext) -> Backbone:
    model, vocabulary = context.frozen_run("teacher", folder)
    # Equal sizes are not enough: divergences compare probabilities id by id.
    if not same_pieces(vocabulary, context.vocabulary):
        raise UserError(f"teacher: '{folder}' has other pieces than this run; train both with one vocabulary")
    source, target = context.max_source, context.max_length
    if not model.shape.fits(source, target):
        raise UserError(
            f"teacher: '{folder}' was built for shorter texts than data.max_source {source} and max_target {target}"
        )
    return model


def _taught(teacher: Backbone, student: Backbone, batch: Batch) -> OutputRows:
    """Return what the teacher's scores at the batch's labels are computed from."""
    rows = teacher.shape.vocabulary, student.shape.vocabulary
    if rows[0] != rows[1]:  # a checkpoint may have more rows of embeddings than its vocabulary has pieces
        raise UserError(f"teacher: it has {rows[0]} rows of embeddings, and this run's model {rows[1]}")
    # A teacher is no part of the objective, which the run moves to its device after ``prepare``.
    return _output(Passes(teacher.to(batch.source.device), 0.0, teacher), batch)


def _output(passes: Passes, batch: Batch) -> OutputRows:
    """Return what the scores at the batch's labels are computed from."""
    output = passes.output_rows(batch)
    if output is None:
        raise UserError("distillation: a model's scores are no product of rows and a table, such as capped ones")
    return output


def _weights(batch: Batch, clean: Batch, sampled: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the weight [N] of each label: gold tokens by own tokens for those of a sample, 1 for all others."""
    labelled = batch.labels != IGNORED
    weights = torch.ones(len(labelled), dtype=dtype, device=labelled.device)
    if sampled is not None:
        gold = (clean.labels != IGNORED).sum(dim=1)[sampled]
        weights[sampled] = gold.to(dtype) / labelled.sum(dim=1)[sampled]
    return weights[:, None].expand_as(labelled)[labelled]


def _padded(rows: Tensor, width: int, value: int) -> Tensor:
    return functional.pad(rows, (0, width - rows.shape[1]), value=value)
