"""The interface of a mitigation: a prefix method edits the decoder's inputs, a loss method computes the loss.

A new mitigation is one file with a dataclass and one row in ``s2s.mitigations.MITIGATIONS``. Its fields are the keys of
a recipe; whatever it builds from the run (counts, another model, a file's candidates) is what ``prepare`` returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from s2s.batch import Batch, Counts
from s2s.config.ranges import CountOrZero, Share, settle
from s2s.data.batches import TokenisedSplit
from s2s.errors import UserError
from s2s.losses.divergence_loss import Shares, paired_loss
from s2s.losses.passes import Passes
from s2s.losses.terms import Scores, Term, at_least_float32
from s2s.model.backbone import Backbone
from s2s.randomness import Draws
from s2s.vocabulary import Vocabulary


class FrozenRun(NamedTuple):
    """The frozen model of another run, without dropout, and its vocabulary."""

    model: Backbone
    vocabulary: Vocabulary


class TrainingContext(NamedTuple):
    """Everything a method may read of its run before the first step."""

    vocabulary: Vocabulary
    train: Callable[[], TokenisedSplit]  # reads the ids of the train split
    max_source: int  # tokens, begin and end included
    max_length: int  # of a target in tokens, end included
    load_model: Callable[[str], FrozenRun]  # reads another run's folder

    def frozen_run(self, key: str, folder: str) -> FrozenRun:
        """Read the run that a method's ``key`` names. Errors: a UserError for none, and for other numbers of pieces."""
        try:
            frozen = self.load_model(folder)
        except OSError as error:
            raise UserError(f"{key}: '{folder}' is no run ({error.strerror})") from error
        # Not the rows of the table, of which a checkpoint may have more than its vocabulary has pieces.
        pieces, size = frozen.vocabulary.size, self.vocabulary.size
        if pieces != size:
            raise UserError(f"{key}: '{folder}' has {pieces} pieces, this run {size}")
        return frozen


class StepContext(NamedTuple):
    """Everything a method may read in one training step, besides the batch."""

    passes: Passes
    draws: Draws
    counts: Counts  # the units of the whole update
    step: int  # since the method's start
    strength: float  # 0 before the start, 1 after the ramp
    prepared: Any = None  # what the method's ``prepare`` returned


class LossTerms(NamedTuple):
    """The terms that add up to a loss and, where it is known, the labels' negative log-likelihood, for the log."""

    terms: dict[str, Term]
    nll: Tensor | None


class Composition(NamedTuple):
    """All methods of a recipe, in order, and the settings that may rule one of them out."""

    mitigations: Sequence["Mitigation"]
    updates_in_parts: bool  # several processes or micro-batches share an update
    label_smoothing: float
    compiled: bool = False  # the blocks are compiled, and then have no second derivative
    fused: bool = False  # a fused kernel computes the loss, and returns no scores
    sharded: bool = False  # processes divide the parameters among them


@dataclass
class Mitigation:
    """The keys that all methods have."""

    weight: Share = 1.0  # share of the method in the loss, the rest is teacher forcing on gold; 0: teacher forcing
    start_step: CountOrZero = 0  # the first step with the method; teacher forcing before it
    ramp_steps: CountOrZero = 0  # number of steps over which the method grows to its whole strength

    def __post_init__(self) -> None:
        settle(self)

    def strength(self, step: int) -> float:
        """Return the method's strength at a step: 0 before ``start_step``, then linearly more, up to 1."""
        if not self.weight or step < self.start_step:
            return 0.0
        # Plus 1, so that the method acts at its first step, and is whole there without a ramp.
        return min(1.0, (step - self.start_step + 1) / max(1, self.ramp_steps))

    def refuse(self, composition: Composition) -> str | None:  # noqa: ARG002
        """Return why the method has no meaning in a composition, or None."""
        return None

    def prepare(self, context: TrainingContext) -> Any:  # noqa: ARG002
        """Build what the method needs besides its keys; every step gets it back as ``StepContext.prepared``."""
        return None

    def teaches(self) -> set[str]:
        """Name the corruptions of ``s2s.diagnose.corruptions`` that are like the prefixes which the method trains on.

        Another rate or form of the same noise counts. The diagnosis claims something of corruptions that no run was
        trained on, so a method that does not answer must fail there rather than pass for one that teaches none.
        """
        raise NotImplementedError(f"{type(self).__name__}.teaches")  # no default could be right, see above

    @property
    def shardable(self) -> bool:
        """Whether the method runs where parameters are sharded (FSDP2)."""
        return True


class PreparedMethod(NamedTuple):
    """A method, the name that seeds its draws, and what its ``prepare`` returned."""

    name: str
    method: Mitigation
    prepared: Any = None


@dataclass
class PrefixMethod(Mitigation):
    """A method that edits the decoder's inputs; its ``strength`` scales its rate."""

    def feed(self, batch: Batch, context: StepContext) -> Batch:  # noqa: ARG002
        """Return the batch with other decoder inputs."""
        return batch


@dataclass
class LossMethod(Mitigation):
    """A method that computes the loss from forward passes; its ``strength`` scales its weight.

    This base is teacher forcing.
    """

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        """Return the loss of a batch, given as it is in the data and as the prefix methods have edited it."""
        return teacher_forcing(context.passes, fed)

    def share(self, context: StepContext) -> float:
        """Return the method's share of the loss at this step."""
        return self.weight * context.strength


@dataclass
class SequenceLossMethod(LossMethod):
    """A loss method that scores whole candidates, and so does not read the prefixes that prefix methods edit."""

    def refuse(self, composition: Composition) -> str | None:
        if self.weight < 1 or not any(isinstance(method, PrefixMethod) for method in composition.mitigations):
            return None
        return "at weight 1 nothing reads the prefixes that other methods edit; a smaller weight mixes them in"

    def mixed(self, fed: Batch, context: StepContext, name: str, method: Tensor) -> LossTerms:
        """Return (1 - share) teacher forcing + share method; ``method`` is a sum to be divided by examples."""
        share = self.share(context)
        terms = {name: Term(share * method, "examples")}
        if share == 1:
            return LossTerms(terms, None)
        loss, nll = context.passes.losses(fed)
        return LossTerms({"cross_entropy": Term((1 - share) * loss), **terms}, nll)


def teacher_forcing(passes: Passes, batch: Batch) -> LossTerms:
    """Return the cross-entropy of each label given the source and the decoder inputs before it."""
    loss, nll = passes.losses(batch)
    return LossTerms({"cross_entropy": Term(loss)}, nll)


def mixed(share: float, clean: Tensor, name: str, method: Tensor) -> dict[str, Term]:
    """Return (1 - share) clean + share method, in target tokens, without the part whose share is 0."""
    # A part times 0 would still be in the graph, cost a backward, and turn an infinite loss into nan.
    parts = {"clean": (1 - share, clean), name: (share, method)}
    return {name: Term(factor * value) for name, (factor, value) in parts.items() if factor}


def paired_terms(
    passes: Passes, rows: Tensor, labels: Tensor, shares: Shares, apart: Callable[[Tensor, Tensor], Tensor]
) -> LossTerms:
    """Return the loss of two views of labels [N], as ``paired_loss``, from their rows [2N, D], the first's first."""
    output = passes.model.output(rows)
    if output is None:  # of a model whose scores are more than a product with a table
        logits = at_least_float32(passes.model.logits(rows))
        first, second = (Scores(half, labels) for half in logits.chunk(2))
        entropy = shares.first * passes.cross_entropy(first) + shares.second * passes.cross_entropy(second)
        penalty = shares.divergence * apart(first.logits, second.logits)
        return LossTerms({"cross_entropy": Term(entropy), "divergence": Term(penalty)}, first.nll())
    loss, penalty, nll = paired_loss(output, labels.repeat(2), shares, passes.label_smoothing, apart)
    # Parts of one mean, for the log; the first has the gradient of the whole.
    return LossTerms({"cross_entropy": Term(loss - penalty), "divergence": Term(penalty)}, nll)


def check(composition: Composition, names: list[str]) -> None:
    """Refuse a composition without a meaning; the error names the method's index in the recipe and the reason."""
    loss_methods = [index for index, method in enumerate(composition.mitigations) if isinstance(method, LossMethod)]
    if len(loss_methods) > 1:
        first, second = (names[index] for index in loss_methods[:2])
        raise UserError(
            f"mitigations[{loss_methods[1]}]: '{second}' computes the loss, and so does '{first}'; "
            "a recipe has any number of methods that edit prefixes, but at most one that computes the loss"
        )
    if composition.fused and loss_methods:
        name = names[loss_methods[0]]
        raise UserError(
            f"run.fused_loss: it computes teacher forcing's loss, but '{name}' needs the scores for its own"
        )
    for index, method in enumerate(composition.mitigations):
        if reason := method.refuse(composition):
            raise UserError(f"mitigations[{index}]: '{names[index]}': {reason}")
