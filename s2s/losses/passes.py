"""The passes of one batch: each source is encoded once, any number of targets is decoded against it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from s2s.batch import IGNORED, Batch
from s2s.losses.fsdp import kept_gathered
from s2s.losses.terms import Scores, at_least_float32
from s2s.losses.vocabulary_loss import VocabularyLoss, vocabulary_loss
from s2s.model import Memory, PrefixTransformer


class InputEmbeddings(NamedTuple):
    """Token embeddings to decode from: the targets' [B, T, D] and, where the source is perturbed too, its [B, S, D]."""

    target: Tensor
    source: Tensor | None = None

    def moved(self, by: Sequence[Tensor]) -> "InputEmbeddings":
        """These embeddings plus others of the same shapes."""
        return InputEmbeddings(*(words + step for words, step in zip(self.tensors(), by, strict=True)))

    def tensors(self) -> list[Tensor]:
        """The target's and, if there are any, the source's."""
        return [self.target] if self.source is None else [self.target, self.source]


class Passes:
    """Passes of a model over the sources and targets of one batch; ``root`` is the module whose forward they run in.

    With ``source_rows`` the last layer is computed for sources too, in the pass that gives the memory: heads read it.
    ``loss`` computes what needs no scores.
    """

    def __init__(
        self,
        model: PrefixTransformer,
        label_smoothing: float,
        root: Module,
        source_rows: bool = False,
        loss: VocabularyLoss = vocabulary_loss,
    ) -> None:
        self.model = model
        self.label_smoothing = label_smoothing
        self.root = root
        self.grad_scale: Tensor | None = None  # of losses that are differentiated within the step: fp16 needs it
        self._differentiable = torch.is_grad_enabled()
        self._reads_rows, self._loss = source_rows, loss
        self._encoded: list[tuple[Tensor, Memory, Tensor | None]] = []

    def memory(self, batch: Batch) -> Memory:
        """The batch's encoded source, computed at the first call for this tensor of sources."""
        return self._encode(batch)[0]

    def source_rows(self, batch: Batch) -> Tensor:
        """The last layer's rows [B, S, D] of the batch's sources, from the same pass as the memory."""
        rows = self._encode(batch)[1]
        assert rows is not None, "these passes were made without source_rows"
        return rows

    def _encode(self, batch: Batch) -> tuple[Memory, Tensor | None]:
        for source, memory, rows in self._encoded:
            if source is batch.source:
                return memory, rows
        with torch.set_grad_enabled(self._differentiable):  # the first to ask may want no gradients, the next one does
            found = self._read(batch)
        self._encoded.append((batch.source, *found))
        return found

    def _read(self, batch: Batch) -> tuple[Memory, Tensor | None]:
        if self._reads_rows:
            return self.model.encode_whole(batch.source, batch.source_lengths)
        return self.model.encode(batch.source, batch.source_lengths), None

    def words(self, batch: Batch, scope: str) -> InputEmbeddings:
        """The batch's token embeddings: of the target, or of "all"."""
        source = self.model.words(batch.source) if scope == "all" else None
        return InputEmbeddings(self.model.words(batch.target), source)

    def hidden(self, batch: Batch, words: InputEmbeddings | None = None, copies: int = 1) -> Tensor:
        """The last layer's rows [B, T, D] at the decoder inputs, or at other embeddings in their place."""
        if words is None:
            return self.model.decode(batch.target, self.memory(batch), copies=copies)
        memory = self.memory(batch)
        if words.source is not None:
            memory = self.model.encode(batch.source, batch.source_lengths, words.source)
        return self.model.decode(batch.target, memory, words.target, copies)

    def score(self, batch: Batch, words: InputEmbeddings | None = None, copies: int = 1) -> Scores:
        """The scores at the batch's labels."""
        return self.scores(self.hidden(batch, words, copies), batch.labels)

    def scores(self, hidden: Tensor, labels: Tensor, table: Tensor | None = None) -> Scores:
        """The scores at labelled positions, from hidden rows [B, T, D], labels [B, T] and any other output table."""
        real = labels != IGNORED
        return Scores(at_least_float32(self.model.logits(hidden[real], table)), labels[real])

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy and negative log-likelihood of the labels, without all their scores in memory."""
        real, model = batch.labels != IGNORED, self.model
        rows = model.transform(self.hidden(batch)[real])
        table, bias = model.embedding.tokens.weight, model.output_bias
        return self._loss(rows, table, bias, batch.labels[real], self.label_smoothing)

    def score_copies(self, batches: Sequence[Batch]) -> list[Scores]:
        """The scores of several targets of the same sources, decoded side by side in one pass."""
        packed = batches[0]._replace(target=torch.cat([batch.target for batch in batches], dim=1))
        hidden = self.hidden(packed, copies=len(batches)).chunk(len(batches), dim=1)
        return [self.scores(rows, batch.labels) for rows, batch in zip(hidden, batches, strict=True)]

    def cross_entropy(self, scores: Scores) -> Tensor:
        """The sum of the labels' cross-entropies, with the recipe's label smoothing."""
        return scores.cross_entropy(self.label_smoothing)

    def gradients(self, loss: Tensor, words: InputEmbeddings, differentiable: bool = False) -> list[Tensor]:
        """The gradients of a loss with respect to token embeddings; it walks only what lies between them.

        They can be differentiated again on request; otherwise they are constants.
        """
        return self.differentiate(loss, words.tensors(), differentiable)

    def differentiate(self, loss: Tensor, tensors: Sequence[Tensor], differentiable: bool = False) -> list[Tensor]:
        """The gradients of a loss with respect to any tensors, likewise."""
        if self.grad_scale is not None:
            loss = loss * self.grad_scale
        with kept_gathered(self.root):
            found = list(torch.autograd.grad(loss, tensors, retain_graph=True, create_graph=differentiable))
        return found if self.grad_scale is None else [gradient / self.grad_scale for gradient in found]
