"""The objective: model and losses in one module, so that wrappers (DDP, FSDP) see one ``forward`` for each batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2s.batch import Batch, Counts, count
from s2s.config.ranges import ShareBelowOne, settle
from s2s.errors import UserError
from s2s.heads.modules import Rows
from s2s.heads.run_heads import Heads
from s2s.losses.fsdp import is_sharded
from s2s.losses.passes import Passes
from s2s.losses.terms import Losses, Term, share
from s2s.losses.vocabulary_loss import VocabularyLoss, vocabulary_loss
from s2s.mitigations.base import LossMethod, LossTerms, PrefixMethod, PreparedMethod, StepContext
from s2s.model.backbone import Backbone
from s2s.randomness import Draws


@dataclass
class ObjectiveSettings:
    """A recipe's ``objective:``."""

    label_smoothing: ShareBelowOne = 0.0  # share of the probability that is spread evenly over the vocabulary

    def __post_init__(self) -> None:
        settle(self, "objective.")


class Objective(nn.Module):
    """Teacher forcing as the recipe's mitigations change it, plus the losses of the recipe's heads.

    Prefix methods edit the decoder's inputs one after another; the loss method, if there is one, computes the loss of
    generation from forward passes. Heads read the last layer at the source's columns, in the pass that generation
    makes anyway. Without targets (``generates`` is false) only heads train, and the parameters that serve nothing but
    the output are frozen. ``loss`` computes cross-entropies in training; ``nll`` always uses ``vocabulary_loss``.
    """

    def __init__(
        self,
        model: Backbone,
        settings: ObjectiveSettings,
        mitigations: Sequence[PreparedMethod] = (),
        heads: Heads | None = None,
        generates: bool = True,
        loss: VocabularyLoss = vocabulary_loss,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = settings.label_smoothing
        self.mitigations = _numbered(mitigations)
        self.heads, self.generates, self.loss = heads, generates, loss
        if not generates:
            # DistributedDataParallel would wait for their gradients in every backward, and none would come.
            model.freeze_output()

    def forward(self, batch: Batch, step: int = 0, counts: Counts | None = None, scale: float | Tensor = 1.0) -> Losses:
        """Compute the losses of a batch at a step.

        ``counts`` are the units of the whole update, over all micro-batches and processes, so that the losses of its
        batches add up to the loss of one large batch; None means that this batch is the whole update. ``scale`` is the
        factor by which the caller will multiply the loss before its backward, as in fp16.
        """
        counts = count(batch) if counts is None else counts
        passes = Passes(self.model, self.label_smoothing, self, self.heads is not None, self.loss)
        if isinstance(scale, Tensor) or scale != 1:  # a tensor is not compared, as a GPU would be waited for
            # The loop differentiates a mean, methods a sum: divided by the tokens, the sum's gradients have the size
            # that the scale of fp16 is made for.
            passes.grad_scale = scale / counts.target_tokens.clamp(min=1)
        generation = self._generation_loss(passes, batch, step, counts) if self.generates else LossTerms({}, None)
        head_terms = {} if self.heads is None else self.heads.terms(self._source_rows(passes, batch), batch)
        head_losses = {name: share(term, counts) for name, term in head_terms.items()}
        weighted = [self.heads.weights[name] * loss for name, loss in head_losses.items()] if self.heads else []
        total = torch.stack([*(share(term, counts) for term in generation.terms.values()), *weighted]).sum()
        logged = generation.terms | ({} if generation.nll is None else {"nll": Term(generation.nll)})
        parts = {"loss": total} | {name: share(term, counts) for name, term in logged.items()}
        parts |= {f"{name}.loss": loss for name, loss in head_losses.items()}
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def _source_rows(self, passes: Passes, batch: Batch) -> Rows:
        return Rows(passes.source_rows(batch), batch.source_lengths, self.model.token_table)

    def nll(self, batch: Batch) -> Tensor:
        """Return the summed negative log-likelihood of the labels given gold prefixes, without method or smoothing."""
        return Passes(self.model, 0.0, self).losses(batch)[1]

    def _generation_loss(self, passes: Passes, batch: Batch, step: int, counts: Counts) -> LossTerms:
        """Return the loss of generation as sums: that of the loss method, given what the prefix methods feed it."""
        fed, kept = batch, 1.0
        loss_method, loss_context = LossMethod(), StepContext(passes, Draws(batch.seeds, ""), counts, 0, 1.0)
        for name, method, prepared in self.mitigations:
            if not (strength := method.strength(step)):
                continue
            if not method.shardable and is_sharded(self):
                raise UserError(f"mitigations: '{name}' does not run where parameters are sharded")
            draws, since = Draws(batch.seeds, name), step - method.start_step
            context = StepContext(passes, draws, counts, since, strength, prepared)
            if isinstance(method, PrefixMethod):
                fed, kept = method.feed(fed, context), kept * method.weight
            elif isinstance(method, LossMethod):
                loss_method, loss_context = method, context
        return _anchored(loss_method.loss(batch, fed, loss_context), kept, passes, batch)


def _anchored(terms: LossTerms, kept: float, passes: Passes, batch: Batch) -> LossTerms:
    """Mix a loss with teacher forcing on gold prefixes: the share ``kept`` of the loss, the rest of the latter."""
    if kept == 1:
        return terms
    loss, nll = passes.losses(batch)
    scaled = {name: Term(kept * term.sum, term.unit) for name, term in terms.terms.items()}
    return LossTerms({"anchor": Term((1 - kept) * loss), **scaled}, nll)


def _numbered(mitigations: Sequence[PreparedMethod]) -> list[PreparedMethod]:
    # Two uses of one method need names of their own: with one name both would draw the same numbers.
    uses: Counter[str] = Counter()
    named = []
    for name, method, prepared in mitigations:
        uses[name] += 1
        named.append(PreparedMethod(name if uses[name] == 1 else f"{name} {uses[name]}", method, prepared))
    return named
