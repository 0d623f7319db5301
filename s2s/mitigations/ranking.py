"""Ranking losses over stored candidates: BRIO's margins and direct preference optimisation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from s2s.batch import Batch
from s2s.config.outside_names import outside
from s2s.config.ranges import Exponent, Few, PathText, Strength
from s2s.errors import UserError, nearest
from s2s.losses.terms import Term
from s2s.mitigations.base import Composition, LossTerms, StepContext, TrainingContext, teacher_forcing
from s2s.mitigations.candidates import Candidate, CandidateTools, Packed, Sampled, has_labels, read


class Ranked(NamedTuple):
    """A candidate, its log-probability when it was decoded, and its metric."""

    candidate: Candidate
    log_prob: float
    reward: float


@dataclass
class Ranking(Sampled):
    """The keys of methods that rank the candidates of a file: decoded JSONL at ``path``, ranked by ``metric``."""

    path: PathText = field(default="", metadata=outside("FILE"))  # a file of decoded candidates

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise UserError("path: a file of decoded candidates is needed, such as scripts/decode.py writes")

    def prepare(self, context: TrainingContext) -> CandidateTools:
        return super().prepare(context)._replace(stored=read(self.path, context))

    def ranked(self, batch: Batch, tools: CandidateTools) -> list[list[Ranked]]:
        """Return the candidates of each source, best first; those of equal metric in the order of the file."""
        assert tools.stored is not None
        rows = tools.stored.find(batch, self.candidates)
        rewards = tools.rewards([[candidate for candidate, _ in row] for row in rows], batch).tolist()
        return [
            sorted(
                (Ranked(*pair, reward) for pair, reward in zip(row, values, strict=False)),  # rewards are padded
                key=lambda ranked: -ranked.reward,
            )
            for row, values in zip(rows, rewards, strict=True)
        ]


@dataclass
class CandidateRanking(Ranking):
    """BRIO: CE + weight gamma R, where R sums max(0, f(c_j) - f(c_i) + (j - i) margin) over pairs i < j, best first.

    f(c) is log p(c | source) / length^length_penalty, the end included. ``pairs`` says how the pairs of one distance
    j - i add up: "mean" is the released code's form, to which its numbers for CNN/DM (the defaults here) belong; "sum"
    is the text's, up to K - 1 times as strong with the same gamma. R is a mean over examples. The released code also
    smooths the labels of its cross-entropy by 0.1, which is ``objective.label_smoothing`` here. Source: Liu et al.
    2022, section 3.2. Cost: (S + K T) / (S + T) of a step. Teacher forcing at weight 0 or gamma 0. Candidates are not
    refreshed while the model moves away from the one that wrote them.
    """

    candidates: Few = 16
    gamma: Strength = 100.0  # strength of the ranking
    margin: Strength = 0.001  # between neighbours
    length_penalty: Exponent = 2.0  # log-probabilities are divided by length ** length_penalty
    pairs: str = "mean"  # a row of PAIRS: how the pairs of one distance add up, by mean (the code) or sum (the text)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs not in PAIRS:
            raise UserError(f"pairs: no '{self.pairs}'{nearest(self.pairs, PAIRS)}")

    def refuse(self, composition: Composition) -> str | None:  # noqa: ARG002
        return None  # at any weight its cross-entropy reads the prefixes that other methods edit

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        rows = self.ranked(clean, context.prepared)
        packed = context.prepared.pack([[ranked.candidate for ranked in row] for row in rows], clean)
        log_probs = packed.log_probs(context.passes, clean)
        # In the type of the log-probabilities: an integer tensor to the power of a float is float32.
        scores = log_probs / packed.lengths().clamp(min=1).to(log_probs.dtype) ** self.length_penalty
        ranking = (margins(scores, packed, self.margin, PAIRS[self.pairs]) * has_labels(clean)).sum()
        forced = teacher_forcing(context.passes, fed)
        term = Term(self.share(context) * self.gamma * ranking, "examples")
        return LossTerms({**forced.terms, "ranking": term}, forced.nll)


Shares = Callable[[Tensor, Tensor], Tensor]
PAIRS: dict[str, Shares] = {
    "mean": lambda distances, candidates: 1 / (candidates - distances).clamp(min=1),
    "sum": lambda distances, _: torch.ones_like(distances),
}
"""The factor of a pair from its distance d = j - i and the number n of candidates in its row, which has n - d such
pairs."""


def margins(scores: Tensor, packed: Packed, margin: float, shares: Shares) -> Tensor:
    """Return for each row [B] the sum over pairs i < j of max(0, f_j - f_i + (j - i) margin) times the pair's share."""
    ranks = torch.arange(scores.shape[1], device=scores.device)
    distance = ranks[None, :] - ranks[:, None]  # j - i
    loss = functional.relu(scores[:, None, :] - scores[:, :, None] + distance * margin)
    present = packed.lengths() > 0
    counted = (distance > 0) & present[:, None, :] & present[:, :, None]
    share = shares(distance.to(loss.dtype), present.sum(dim=1)[:, None, None].to(loss.dtype))
    return (loss * share * counted).sum(dim=(1, 2))


@dataclass
class PreferenceOptimisation(Ranking):
    """DPO: (1 - weight) CE - weight log sigmoid(beta [log p(b)/q(b) - log p(w)/q(w)]), b and w the best and the worst.

    Best and worst of a source's candidates by the metric, where it distinguishes them; q are their log-probabilities
    when they were decoded, so the reference is the run that wrote the file. A mean over examples. Source: Rafailov et
    al. 2023; as pairs for translation, Yang et al. 2024. Cost: (S + 2 T) / (S + T) of a step. Teacher forcing at weight
    0. The likelihood of both may fall; a weight below 1 holds it.
    """

    beta: Strength = 0.1  # how far a preference may pull from the reference

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:
        pairs = [[row[0], row[-1]] for row in self.ranked(clean, context.prepared)]
        packed = context.prepared.pack([[ranked.candidate for ranked in pair] for pair in pairs], clean)
        log_probs = packed.log_probs(context.passes, clean)
        gain = log_probs - log_probs.new_tensor([[ranked.log_prob for ranked in pair] for pair in pairs])
        differ = log_probs.new_tensor([best.reward > worst.reward for best, worst in pairs])
        preference = -functional.logsigmoid(self.beta * (gain[:, 0] - gain[:, 1]))
        return self.mixed(fed, context, "preference", (preference * differ * has_labels(clean)).sum())
