"""Scores of generated texts and tests of their differences; ``s2s.metrics.table`` lists the scores.

Scores of words count single characters in Chinese, Japanese, Thai and other scripts without blanks, and syllables in
Korean: see ``words``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s2s.metrics.bootstrap import Comparison, paired_bootstrap
from s2s.metrics.overlap import Scores, published_score, rouge_l_by_sentence, score, show
from s2s.metrics.published import method1_bleu, published_bleu, published_rouge
from s2s.metrics.repetition import copy_rate, distinct_n, length_ratio, longest_copy, seq_rep_n
from s2s.metrics.sequences import rouge_l, rouge_n
from s2s.metrics.tokenisation import characters, words
from s2s.metrics.transport.bags import movers_problem, rotators_problem
from s2s.metrics.transport.bounds import (
    relaxed_word_movers_distance,
    relaxed_word_rotators_distance,
    word_centroid_distance,
    word_centroid_distance_article,
    word_rotators_bound,
)
from s2s.metrics.transport.exact import (
    transport_plan,
    word_movers_distance,
    word_movers_distance_article,
    word_rotators_distance,
)
from s2s.metrics.transport.vectors import centring, changed, corpus_distances, table_embedding, whitening

if TYPE_CHECKING:
    from s2s.metrics.transport.batched import movers_problems, rotators_problems
    from s2s.metrics.transport.sinkhorn import corpus_sinkhorn_distances, sinkhorn_transport

__all__ = [
    "Comparison",
    "Scores",
    "centring",
    "changed",
    "characters",
    "copy_rate",
    "corpus_distances",
    "corpus_sinkhorn_distances",
    "distinct_n",
    "length_ratio",
    "longest_copy",
    "method1_bleu",
    "movers_problem",
    "movers_problems",
    "paired_bootstrap",
    "published_bleu",
    "published_rouge",
    "published_score",
    "relaxed_word_movers_distance",
    "relaxed_word_rotators_distance",
    "rotators_problem",
    "rotators_problems",
    "rouge_l",
    "rouge_l_by_sentence",
    "rouge_n",
    "score",
    "seq_rep_n",
    "show",
    "sinkhorn_transport",
    "table_embedding",
    "transport_plan",
    "whitening",
    "word_centroid_distance",
    "word_centroid_distance_article",
    "word_movers_distance",
    "word_movers_distance_article",
    "word_rotators_bound",
    "word_rotators_distance",
    "words",
]

# Imported on first use: scoring a file should not wait for the import of torch.
_MODULES = {
    "corpus_sinkhorn_distances": "s2s.metrics.transport.sinkhorn",
    "movers_problems": "s2s.metrics.transport.batched",
    "rotators_problems": "s2s.metrics.transport.batched",
    "sinkhorn_transport": "s2s.metrics.transport.sinkhorn",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 's2s.metrics' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)
