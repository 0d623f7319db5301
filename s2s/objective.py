"""The objective: model and losses in one module, so that every pass of a step happens inside one forward."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from s2s.mitigations.base import LossMethod, LossTerms, Mitigation, PrefixMethod, StepContext
from s2s.model import PrefixTransformer
from s2s.randomness import Draws


@dataclass
class ObjectiveSettings:
    """A recipe's ``objective:``."""

    label_smoothing: ShareBelowOne = 0.0  # share of the probability that is spread evenly over the vocabulary

    def __post_init__(self) -> None:
        settle(self, "objective.")


class Named(NamedTuple):
    """A method and the name that its draws go by: the recipe's, numbered where it stands there again."""

    name: str
    method: Mitigation


class Objective(nn.Module):
    """Teacher forcing, or what the recipe's mitigations make of it, and the losses of the recipe's heads.

    Feeds edit the decoder's inputs in their order; the shaper, if there is one, turns passes into the loss. Heads read
    the source's last rows, from the pass that the generation's first loss has made. Where nothing is generated, the
    parameters of the output alone are frozen. ``loss`` trains where no scores are needed; ``nll`` is the plain one's.
    """

    def __init__(
        self,
        model: PrefixTransformer,
        settings: ObjectiveSettings,
        mitigations: Sequence[tuple[str, Mitigation]] = (),
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
            model.output_bias.requires_grad_(False)
            model.transform.requires_grad_(False)

    def forward(self, batch: Batch, step: int = 0, counts: Counts | None = None, scale: float = 1.0) -> Losses:
        """The losses of a batch at a step.

        ``scale`` is what the loss will be multiplied by before it is differentiated, as in fp16: gradients that methods
        take inside need it too.

        ``counts`` are the units of the whole update, over all micro-batches and processes; without them the batch
        stands alone. The losses of the update's batches add up to the loss of one large batch.
        """
        counts = count(batch) if counts is None else counts
        passes = Passes(self.model, self.label_smoothing, self, self.heads is not None, self.loss)
        if scale != 1:
            passes.grad_scale = scale / counts.target_tokens.clamp(min=1)  # losses are sums here, means outside
        shaped = self._shaped(passes, batch, step, counts) if self.generates else LossTerms({}, None)
        labelled = {} if self.heads is None else self.heads.terms(self._rows(passes, batch), batch)
        shares = {name: share(term, counts) for name, term in labelled.items()}
        weighted = [self.heads.weights[name] * value for name, value in shares.items()] if self.heads else []
        total = torch.stack([*(share(term, counts) for term in shaped.terms.values()), *weighted]).sum()
        parts = {name: share(term, counts) for name, term in _seen(shaped).items()}
        parts |= {f"{name}.loss": value for name, value in shares.items()}
        return Losses(total, {name: part.detach() for name, part in {"loss": total, **parts}.items()})

    def _rows(self, passes: Passes, batch: Batch) -> Rows:
        return Rows(passes.source_rows(batch), batch.source_lengths, self.model.embedding.tokens.weight)

    def nll(self, batch: Batch) -> Tensor:
        """The negative log-likelihood of the labels given gold prefixes, summed: no method, no smoothing."""
        return Passes(self.model, 0.0, self).losses(batch)[1]

    def _shaped(self, passes: Passes, batch: Batch, step: int, counts: Counts) -> LossTerms:
        """The loss as sums: the shaper's of what the feeds have made of the batch, anchored on gold where asked."""
        fed, kept = batch, 1.0
        shaper, context = LossMethod(), StepContext(passes, Draws(batch.seeds, ""), counts, 0, 1.0)
        for name, method in self.mitigations:
            if not (strength := method.strength(step)):
                continue
            self._check_sharding(name, method)
            own = context._replace(draws=Draws(batch.seeds, name), step=step - method.start_step, strength=strength)
            if isinstance(method, PrefixMethod):
                fed, kept = method.feed(fed, own), kept * method.weight
            elif isinstance(method, LossMethod):
                shaper, context = method, own
        return _anchored(shaper.loss(batch, fed, context), kept, passes, batch)

    def _check_sharding(self, name: str, method: Mitigation) -> None:
        if not method.shardable and is_sharded(self):
            raise UserError(f"mitigations: '{name}' does not run where parameters are sharded")


def _seen(shaped: LossTerms) -> dict[str, Term]:
    """The terms of a loss and, where it is known, the likelihood beside them."""
    return shaped.terms if shaped.nll is None else {**shaped.terms, "nll": Term(shaped.nll)}


def _anchored(shaped: LossTerms, kept: float, passes: Passes, batch: Batch) -> LossTerms:
    """``kept`` of a loss and the rest teacher forcing on gold."""
    if kept == 1:
        return shaped
    loss, nll = passes.losses(batch)
    terms = {name: Term(kept * term.sum, term.unit) for name, term in shaped.terms.items()}
    return LossTerms({"anchor": Term((1 - kept) * loss), **terms}, nll)


def _numbered(mitigations: Sequence[tuple[str, Mitigation]]) -> list[Named]:
    seen: Counter[str] = Counter()
    found = []
    for name, method in mitigations:
        seen[name] += 1
        found.append(Named(name if seen[name] == 1 else f"{name} {seen[name]}", method))
    return found
