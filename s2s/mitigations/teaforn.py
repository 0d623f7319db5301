"""TeaForN: the decoder reads its own last layer instead of token embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.batch import IGNORED, Batch
from s2s.config.ranges import Few, Strength
from s2s.losses.passes import InputEmbeddings
from s2s.losses.terms import Term
from s2s.mitigations.base import LossMethod, LossTerms, StepContext


@dataclass
class TeacherForcingWithNGrams(LossMethod):
    """TeaForN: CE_1 + weight sum_{n > 1} decay^(n-1) CE_n; pass n reads the hidden states of pass n - 1.

    In pass n the hidden state that predicts token t replaces the embedding of t; the begin symbol keeps its own. CE_n
    counts the tokens from the n-th on, as earlier ones read only what an earlier pass has read. All passes share their
    weights, and gradients flow through all of them. Source: Goodman et al. 2020; Su 2020 (7818). Cost: a target pass
    for each pass after the first. Teacher forcing at weight 0, decay 0 or 1 pass. It does not mix in embeddings of
    likely words, which the paper found unstable.
    """

    passes: Few = 2  # 1 is teacher forcing
    decay: Strength = 0.5  # factor of each pass over the one before

    def teaches(self) -> set[str]:
        return set()

    def loss(self, clean: Batch, fed: Batch, context: StepContext) -> LossTerms:  # noqa: ARG002
        passes, labels = context.passes, fed.labels
        hidden = passes.hidden(fed)
        first = passes.scores(hidden, labels)
        terms = {"cross_entropy": Term(passes.cross_entropy(first))}
        # No hidden state predicts the begin symbol, so it keeps its embedding in every pass.
        begin = passes.model.words(fed.target[:, :1])
        for number in range(2, self.passes + 1):
            hidden = passes.hidden(fed, InputEmbeddings(torch.cat([begin, hidden[:, :-1]], dim=1)))
            entropy = passes.cross_entropy(passes.scores(hidden, _labels_from(number, labels)))
            terms[f"pass_{number}"] = Term(self.share(context) * self.decay ** (number - 1) * entropy)
        return LossTerms(terms, first.nll())


def _labels_from(number: int, labels: Tensor) -> Tensor:
    """Return the labels from the n-th token on."""
    columns = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    return labels.masked_fill(columns < number, IGNORED)
