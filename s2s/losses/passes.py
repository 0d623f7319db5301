"""Forward passes of one batch: each source is encoded once, and any number of targets is decoded against it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from s2s.batch import IGNORED, Batch
from s2s.losses.fsdp import kept_gathered
from s2s.losses.terms import Scores, at_least_float32
from s2s.losses.vocabulary_loss import VocabularyLoss, vocabulary_loss
from s2s.model.backbone import Backbone, Memory
from s2s.model.output_rows import OutputRows
from s2s.vocabulary import Vocabulary


class InputEmbeddings(NamedTuple):
    """Token embeddings to decode from: the target's [B, T, D] and, where the source is perturbed too, its [B, S, D]."""

    target: Tensor
    source: Tensor | None = None

    def moved(self, by: Sequence[Tensor]) -> "InputEmbeddings":
        """Add tensors of the same shapes."""
        return InputEmbeddings(*(words + step for words, step in zip(self.tensors(), by, strict=True)))

    def tensors(self) -> list[Tensor]:
        """Return the target's and, if there are any, the source's."""
        return [self.target] if self.source is None else [self.target, self.source]


class Passes:
    """Passes of a model over one batch, inside the forward of the module ``root``.

    With ``source_rows`` the pass that encodes the source also computes the last layer there, which heads read. ``loss``
    computes cross-entropies where nobody needs the scores.
    """

    def __init__(
        self,
        model: Backbone,
        label_smoothing: float,
        root: Module,
        source_rows: bool = False,
        loss: VocabularyLoss = vocabulary_loss,
    ) -> None:
        self.model = model
        self.label_smoothing = label_smoothing
        self.root = root
        self.grad_scale: Tensor | None = None  # multiplies losses that methods differentiate within the step, for fp16
        self._differentiable = torch.is_grad_enabled()
        self._reads_rows, self._loss = source_rows, loss
        self._encoded: list[tuple[Tensor, Memory, Tensor | None]] = []

    def memory(self, batch: Batch) -> Memory:
        """Return the encoded source; it is computed at the first call for this tensor of sources."""
        return self._encode(batch)[0]

    def source_rows(self, batch: Batch) -> Tensor:
        """Return the last layer [B, S, D] at the source's columns, from the same pass as the memory."""
        rows = self._encode(batch)[1]
        assert rows is not None, "these passes were made without source_rows"
        return rows

    def _encode(self, batch: Batch) -> tuple[Memory, Tensor | None]:
        # By identity, which costs no comparison: methods that edit the target keep the tensor of the source.
        for source, memory, rows in self._encoded:
            if source is batch.source:
                return memory, rows
        # The first caller may be under ``no_grad`` (a method that samples), while a later one needs the gradients.
        with torch.set_grad_enabled(self._differentiable):
            if self._reads_rows:
                memory, rows = self.model.encode_whole(batch.source, batch.source_lengths)
            else:
                memory, rows = self.model.encode(batch.source, batch.source_lengths), None
        self._encoded.append((batch.source, memory, rows))
        return memory, rows

    def words(self, batch: Batch, scope: str) -> InputEmbeddings:
        """Return the token embeddings of the target or, with the scope "all", of the source too."""
        source = self.model.words(batch.source) if scope == "all" else None
        words = InputEmbeddings(self.model.words(batch.target), source)
        for part in words.tensors():
            # Methods differentiate with respect to them, also where the table is frozen, as under adapters.
            if self._differentiable and not part.requires_grad:
                part.requires_grad_()
        return words

    def hidden(self, batch: Batch, words: InputEmbeddings | None = None, copies: int = 1) -> Tensor:
        """Return the last layer [B, T, D] at the decoder inputs, or at the embeddings given in their place."""
        if words is None:
            return self.model.decode(batch.target, self.memory(batch), copies=copies)
        memory = self.memory(batch)
        if words.source is not None:
            memory = self.model.encode(batch.source, batch.source_lengths, words.source)
        return self.model.decode(batch.target, memory, words.target, copies)

    def score(self, batch: Batch, words: InputEmbeddings | None = None, copies: int = 1) -> Scores:
        """Return the scores at the batch's labels."""
        return self.scores(self.hidden(batch, words, copies), batch.labels)

    def scores(self, hidden: Tensor, labels: Tensor, table: Tensor | None = None) -> Scores:
        """Return the scores at labelled positions; a ``table`` replaces the model's output embeddings.

        ``hidden`` is [B, T, D], ``labels`` [B, T].
        """
        # Scores [N, V] are the largest tensor of a step, so padding gets none.
        mask = labels != IGNORED
        return Scores(at_least_float32(self.model.logits(hidden[mask], table)), labels[mask])

    def output_rows(self, batch: Batch) -> OutputRows | None:
        """Return the rows, weight and bias whose product the scores at the batch's labels are.

        None where the model's scores are more than that, as those of a model of ``transformers`` that caps them.
        """
        return self.model.output(self.rows(batch))

    def rows(self, batch: Batch, words: InputEmbeddings | None = None) -> Tensor:
        """Return the last layer [N, D] at the batch's N labels, or from embeddings in place of its decoder inputs."""
        return self.hidden(batch, words)[batch.labels != IGNORED]

    def losses(self, batch: Batch, output: OutputRows | None = None) -> tuple[Tensor, Tensor]:
        """Sum cross-entropy and negative log-likelihood of the labels, without holding all their scores in memory.

        ``output`` is what ``output_rows`` has returned for the batch; without it there is a pass of its own.
        """
        if output is not None:
            return self._loss(*output, batch.labels[batch.labels != IGNORED], self.label_smoothing)
        hidden, labels = self.hidden(batch).flatten(0, 1), batch.labels.flatten()
        # Cutting by a mask waits for a GPU, where rows of padding, which are few, cost less than that.
        if labels.device.type == "cpu":
            hidden, labels = (part[batch.labels.flatten() != IGNORED] for part in (hidden, labels))
        return self.losses_at(hidden, labels)

    def losses_at(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sum cross-entropy and negative log-likelihood of labels [N] at rows [N, D] of the last layer."""
        output = self.model.output(rows)
        if output is None:
            mask = labels != IGNORED
            scores = Scores(at_least_float32(self.model.logits(rows[mask])), labels[mask])
            return self.cross_entropy(scores), scores.nll().detach()
        return self._loss(*output, labels, self.label_smoothing)

    def score_copies(self, batches: Sequence[Batch]) -> list[Scores]:
        """Return the scores of several targets of the same sources, decoded side by side in one pass."""
        return [self.scores(rows, batch.labels) for rows, batch in zip(self.copies(batches), batches, strict=True)]

    def copies(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        """Return the last layer [B, T, D] of several targets of the same sources, side by side in one pass."""
        packed = batches[0]._replace(target=torch.cat([batch.target for batch in batches], dim=1))
        return self.hidden(packed, copies=len(batches)).chunk(len(batches), dim=1)

    def cross_entropy(self, scores: Scores) -> Tensor:
        """Sum the labels' cross-entropies, with the recipe's label smoothing."""
        return scores.cross_entropy(self.label_smoothing)

    def gradients(self, loss: Tensor, words: InputEmbeddings, differentiable: bool = False) -> list[Tensor]:
        """Return the gradients of a loss with respect to token embeddings; see ``differentiate``."""
        return self.differentiate(loss, words.tensors(), differentiable)

    def differentiate(self, loss: Tensor, tensors: Sequence[Tensor], differentiable: bool = False) -> list[Tensor]:
        """Return the gradients of a loss with respect to tensors, through the part of the graph between them only.

        If ``differentiable``, they can be differentiated again; otherwise they are constants.
        """
        if self.grad_scale is not None:
            loss = loss * self.grad_scale
        with kept_gathered(self.root):
            # The graph stays, as the step's own backward passes through it again.
            gradients = list(torch.autograd.grad(loss, tensors, retain_graph=True, create_graph=differentiable))
        return gradients if self.grad_scale is None else [gradient / self.grad_scale for gradient in gradients]


def token_log_probs(
    model: Backbone, vocabulary: Vocabulary, pairs: Sequence[tuple[list[int], list[int]]]
) -> list[Tensor]:
    """Return for each pair the log-probabilities [tokens + 1] of its target, the end included.

    Pairs are source ids with begin and end, and target ids with neither.
    """
    batch = vocabulary.collate(pairs).to(model.device)
    rows = target_log_probs(model, batch).cpu()
    return [row[labels != IGNORED] for row, labels in zip(rows, batch.labels.cpu(), strict=True)]


def target_log_probs(model: Backbone, batch: Batch) -> Tensor:
    """Return the log-probabilities [B, T] of a batch's labels, 0 at padding."""
    memory = model.encode(batch.source, batch.source_lengths)
    log_probs = model.logits(model.decode(batch.target, memory)).float().log_softmax(dim=-1)
    gold = log_probs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    return gold.masked_fill(batch.labels == IGNORED, 0.0)
