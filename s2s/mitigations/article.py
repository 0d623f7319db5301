"""Table-wide FGM, as Su's article has it."""

from dataclasses import dataclass

from s2s.batch import Batch
from s2s.config.ranges import Strength
from s2s.mitigations.base import Composition, Shaped, Shaper, Turn, mixed


@dataclass
class ArticleFastGradient(Shaper):
    """L(E + D), D = epsilon G / (|G| + 1e-8), G = dL/dE over the whole table of token embeddings E; only its gradient.

    G is the gradient of the update's mean loss, through inputs and tied output layer alike, and its norm that of the
    whole table: a token has one perturbation wherever it stands. Source: Su 2020 (7234). Cost: a whole step more.
    Teacher forcing at weight 0 or epsilon 0. It is not defined on parts of an update, so it is refused with several
    processes or micro-batches, and under sharding.
    """

    epsilon: Strength = 1.0  # length of the table's perturbation

    def refuse(self, beside: Composition) -> str | None:
        if beside.updates_in_parts:
            return "its gradient is that of a whole update; it needs run.processes 1 and run.accumulate 1 (or use fgm)"
        return None

    @property
    def shardable(self) -> bool:
        return False

    def loss(self, clean: Batch, fed: Batch, turn: Turn) -> Shaped:  # noqa: ARG002
        passes, table = turn.passes, turn.passes.model.embedding.tokens.weight
        scores = passes.score(fed)
        loss = passes.cross_entropy(scores)
        (gradient,) = passes.differentiate(loss, [table])
        gradient = gradient / turn.counts.target_tokens.clamp(min=1)
        moved = table + self.epsilon * gradient / (gradient.norm() + 1e-8)
        memory = passes.model.encode(fed.source, fed.source_lengths, passes.model.words(fed.source, moved))
        hidden = passes.model.decode(fed.target, memory, passes.model.words(fed.target, moved))
        adversarial = passes.cross_entropy(passes.scores(hidden, fed.labels, moved))
        return Shaped(mixed(self.share(turn), loss, "adversarial", adversarial), scores.nll())
