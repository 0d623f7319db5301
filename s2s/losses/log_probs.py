"""The log-probabilities of given targets under a prefix LM."""

from collections.abc import Sequence

from torch import Tensor

from s2s.batch import IGNORED, Batch, collate
from s2s.model import PrefixTransformer
from s2s.vocabulary import Vocabulary


def token_log_probs(
    model: PrefixTransformer, vocabulary: Vocabulary, pairs: Sequence[tuple[list[int], list[int]]]
) -> list[Tensor]:
    """Log-probability of each target token, the end included, [tokens + 1] a pair.

    Pairs are source ids with begin and end, and target ids with neither.
    """
    batch = collate(pairs, vocabulary.padding, vocabulary.end).to(model.output_bias.device)
    rows = target_log_probs(model, batch).cpu()
    return [row[labels != IGNORED] for row, labels in zip(rows, batch.labels.cpu(), strict=True)]


def target_log_probs(model: PrefixTransformer, batch: Batch) -> Tensor:
    """Log-probabilities [B, T] of a batch's labels; 0 where there is none."""
    memory = model.encode(batch.source, batch.source_lengths)
    log_probs = model.logits(model.decode(batch.target, memory)).float().log_softmax(dim=-1)
    chosen = log_probs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    return chosen.masked_fill(batch.labels == IGNORED, 0.0)
