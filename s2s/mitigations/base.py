"""What a mitigation is: a feed edits what the decoder is fed, a shaper turns passes into the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from s2s.batch import Batch, Counts
from s2s.config.ranges import CountOrZero, Share, settle
from s2s.data.batches import TokenisedSplit
from s2s.losses.passes import Passes
from s2s.losses.terms import Term
from s2s.randomness import Draws
from s2s.vocabulary import Vocabulary


class StepContext(NamedTuple):
    """One use of a method: the batch's passes, the method's draws, the units of the update and where it stands."""

    passes: Passes
    draws: Draws
    counts: Counts
    step: int  # since the method's start
    strength: float  # 0 before the start, 1 after the ramp


class LossTerms(NamedTuple):
    """The terms that add up to a loss and, where it is known, the labels' negative log-likelihood, for the log."""

    terms: dict[str, Term]
    nll: Tensor | None


class TrainingContext(NamedTuple):
    """What a method may need to know of its run before the first step; ``train`` gives the training ids."""

    vocabulary: Vocabulary
    train: Callable[[], TokenisedSplit]
    max_source: int  # tokens, begin and end included
    max_length: int  # of a target in tokens, end included


class Composition(NamedTuple):
    """What a method stands beside: all methods of the recipe in order, and settings that may rule it out."""

    mitigations: Sequence["Mitigation"]
    updates_in_parts: bool  # whether an update is dealt to several processes or micro-batches
    label_smoothing: float
    compiled: bool = False  # whether the blocks are, which then have no second derivative
    fused: bool = False  # whether a kernel computes the loss, which then shows no scores


@dataclass
class Mitigation:
    """The keys that all methods have."""

    weight: Share = 1.0  # share of the method in the loss, the rest is teacher forcing on gold; 0: teacher forcing
    start_step: CountOrZero = 0  # the first step with the method; teacher forcing before it
    ramp_steps: CountOrZero = 0  # over so many steps the method grows to its whole strength

    def __post_init__(self) -> None:
        settle(self)

    def strength(self, step: int) -> float:
        """How much of the method counts at a step: nothing before ``start_step``, then linearly more, up to 1."""
        if not self.weight or step < self.start_step:
            return 0.0
        return min(1.0, (step - self.start_step + 1) / max(1, self.ramp_steps))

    def refuse(self, beside: Composition) -> str | None:  # noqa: ARG002
        """Why the method has no meaning in a composition, or None."""
        return None

    def prepare(self, context: TrainingContext) -> None:
        """Take from the run what the method needs; called once before the first step."""

    def teaches(self) -> set[str]:
        """Name the corruptions of ``s2s.diagnose.corruptions`` that are like the prefixes which the method trains on.

        Another rate or form of the same noise counts. The diagnosis claims something of corruptions that no run was
        trained on, so a method that does not answer must fail there rather than pass for one that teaches none.
        """
        raise NotImplementedError(f"{type(self).__name__}.teaches")

    @property
    def shardable(self) -> bool:
        """Whether the method runs where parameters are sharded (FSDP2)."""
        return True


@dataclass
class PrefixMethod(Mitigation):
    """A method that edits what the decoder is fed; its ``strength`` scales its rate."""

    def feed(self, batch: Batch, context: StepContext) -> Batch:  # noqa: ARG002
        """The batch with other decoder inputs."""
        return batch


@dataclass
class LossMethod(Mitigation):
    """A method that turns passes into a loss; its ``strength`` scales its weight. This base is teacher forcing."""

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        """The loss of a batch, given as it is in the data and as the feeds have left it."""
        return teacher_forcing(context.passes, fed)

    def share(self, context: StepContext) -> float:
        """The method's share of the loss at this step."""
        return self.weight * context.strength


@dataclass
class SequenceLossMethod(LossMethod):
    """A shaper whose method scores whole candidates, and so does not read what feeds have made of the prefix."""

    def refuse(self, beside: Composition) -> str | None:
        if self.weight < 1 or not any(isinstance(method, PrefixMethod) for method in beside.mitigations):
            return None
        return "at weight 1 nothing reads the prefixes that the feeds edit; a smaller weight mixes them in"

    def mixed(self, fed: Batch, context: StepContext, name: str, method: Tensor) -> LossTerms:
        """(1 - share) teacher forcing + share method, the method's sum divided by examples."""
        share = self.share(context)
        terms = {name: Term(share * method, "examples")}
        if share == 1:
            return LossTerms(terms, None)
        loss, nll = context.passes.losses(fed)
        return LossTerms({"cross_entropy": Term((1 - share) * loss), **terms}, nll)


def teacher_forcing(passes: Passes, batch: Batch) -> LossTerms:
    """The cross-entropy of each label given the source and the decoder inputs before it."""
    loss, nll = passes.losses(batch)
    return LossTerms({"cross_entropy": Term(loss)}, nll)


def mixed(share: float, clean: Tensor, name: str, method: Tensor) -> dict[str, Term]:
    """(1 - share) clean + share method, in target tokens; a part without a share is left out of the graph."""
    parts = {"clean": (1 - share, clean), name: (share, method)}
    return {name: Term(factor * value) for name, (factor, value) in parts.items() if factor}
