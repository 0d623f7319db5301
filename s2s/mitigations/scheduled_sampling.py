"""Scheduled sampling for Transformers: the model's own predictions as decoder inputs, in two passes or more."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from s2s.batch import Batch, real_inputs
from s2s.config.ranges import Few, Share, Strength, above
from s2s.errors import UserError, nearest
from s2s.mitigations.base import PrefixMethod, StepContext, TrainingContext
from s2s.mitigations.prefix_noise import from_target


class Predicted(NamedTuple):
    """Scores [N, V] of the N tokens of a batch's targets, with their gold ids and numbers 1, 2 ... in the target."""

    logits: Tensor
    gold: Tensor
    numbers: Tensor


class Mix(NamedTuple):
    """Probabilities [N] that the prediction, or else a random token, replaces a token in the decoder's input."""

    predicted: Tensor
    random: Tensor | float = 0.0


@dataclass
class ScheduledSampling(PrefixMethod):
    """Decoder inputs are the model's own predictions with a probability; labels stay.

    A pass without gradients predicts each token from the gold prefix: argmax of z + noise Gumbel. At ``noise`` 1 that
    is a sample, the oracle word of Zhang et al. 2019; at 0, the default of this package, it is the likeliest word, as
    in Mihaylova and Martins 2019. The prediction for token t replaces t in the next input with probability ``rate``
    times the policy's. With ``passes`` above 1 the mixed prefix is fed again under the same coins, so that after T
    passes the prefix is that of sampling token by token. Gradients do not flow through predictions. Sources: Mihaylova
    and Martins 2019; Duckworth et al. 2019 (passes). Cost: ``passes`` target passes without gradients. Teacher forcing
    at rate 0 or weight 0; a weight below 1 anchors the loss on gold.

    Policies, for token t = 1, 2 ... and step i since the start:

    - decoding_step: 1 - base^t (Liu et al. 2021b)
    - inverse_sigmoid: 1 - k / (k + exp(i / k)) with k = ``decay`` (Bengio et al. 2015)
    - decoding_and_training_step: the product of the two
    - confidence: the prediction where ``confident`` < p(y_t) <= ``sure``; a random token of the target where p(y_t) is
      above ``sure``; gold elsewhere (Liu et al. 2021a)
    - always: 1
    """

    rate: Share = 1.0  # largest probability of a prediction
    policy: str = "decoding_step"  # a row of POLICIES: how the probability grows
    passes: Few = 1  # depth of predictions from predictions
    # of Gumbel; 0: the likeliest word (the default here), 1: a sample, Zhang et al.'s oracle word
    noise: Strength = 0.0
    base: Share = 0.99  # for the policies by decoding step: Liu et al.'s; short targets want less, such as 0.97
    decay: Annotated[float, above(0)] = 1000.0  # steps, for the policies by training step
    confident: Share = 0.9  # for policy confidence: gold at or below it
    sure: Share = 0.95  # likewise: a random token above it

    def teaches(self) -> set[str]:
        return {"own_errors"} if self.rate else set()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in POLICIES:
            raise UserError(f"policy: no '{self.policy}'{nearest(self.policy, POLICIES)}")

    def prepare(self, context: TrainingContext) -> int:
        # A model's table may have more rows than the vocabulary has pieces, and none of those is ever written.
        return context.vocabulary.size

    def feed(self, batch: Batch, context: StepContext) -> Batch:
        tokens = real_inputs(batch)
        tokens[:, 0] = False  # the begin symbol
        # Drawn once for all passes: a token that was gold in one pass must not become a prediction in the next.
        coin = context.draws.uniform("coin", tokens.shape[1])[tokens]
        random, fed = from_target(batch, context)[tokens], batch
        for _ in range(self.passes):
            predicted = self._predict(fed, batch, tokens, context)
            rate, mix = self.rate * context.strength, POLICIES[self.policy](self, predicted, context.step)
            # One coin serves both: no policy gives a token a random and a predicted replacement at once.
            chosen = torch.where(coin < rate * mix.random, random, predicted.gold)
            chosen = torch.where(coin < rate * mix.predicted, self._written(predicted, tokens, context), chosen)
            fed = batch._replace(target=batch.target.masked_scatter(tokens, chosen))
        return fed

    @torch.no_grad()
    def _predict(self, fed: Batch, batch: Batch, tokens: Tensor, context: StepContext) -> Predicted:
        """Score the tokens, each from the column before its own."""
        before = tokens.roll(-1, dims=1)
        logits = context.passes.model.logits(context.passes.hidden(fed)[before]).float()
        numbers = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return Predicted(logits, batch.target[tokens], numbers[tokens])

    def _written(self, predicted: Predicted, tokens: Tensor, context: StepContext) -> Tensor:
        """Return the tokens [N] that the model would write."""
        logits = predicted.logits[:, : context.prepared]
        if self.noise:
            logits = logits + self.noise * context.draws.gumbel("word", tokens.shape[1], logits.shape[1])[tokens]
        return logits.argmax(dim=-1)


def _decoding_step(settings: ScheduledSampling, predicted: Predicted, step: int) -> Mix:  # noqa: ARG001
    return Mix(1 - settings.base**predicted.numbers)


def _inverse_sigmoid(settings: ScheduledSampling, predicted: Predicted, step: int) -> Mix:
    grown = math.exp(min(step / settings.decay, 700.0))  # e^710 is beyond a float
    return Mix(torch.full_like(predicted.logits[:, 0], 1 - settings.decay / (settings.decay + grown)))


def _both(settings: ScheduledSampling, predicted: Predicted, step: int) -> Mix:
    rates = [policy(settings, predicted, step).predicted for policy in (_decoding_step, _inverse_sigmoid)]
    return Mix(rates[0] * rates[1])


def _confidence(settings: ScheduledSampling, predicted: Predicted, step: int) -> Mix:  # noqa: ARG001
    gold = predicted.logits.softmax(dim=-1).gather(1, predicted.gold.clamp(min=0)[:, None])[:, 0]
    gold = gold.masked_fill(predicted.gold < 0, 0.0)  # a dropped word has no probability and stays dropped
    sure = gold > settings.sure
    return Mix(((gold > settings.confident) & ~sure).float(), sure.float())


def _always(settings: ScheduledSampling, predicted: Predicted, step: int) -> Mix:  # noqa: ARG001
    return Mix(torch.ones_like(predicted.logits[:, 0]))


POLICIES: dict[str, Callable[[ScheduledSampling, Predicted, int], Mix]] = {
    "decoding_step": _decoding_step,
    "inverse_sigmoid": _inverse_sigmoid,
    "decoding_and_training_step": _both,
    "confidence": _confidence,
    "always": _always,
}
