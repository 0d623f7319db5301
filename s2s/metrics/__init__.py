"""Scores of generated texts and tests of their differences."""

from s2s.metrics.overlap import Scores, rouge_l_by_sentence, score, show
from s2s.metrics.rouge import characters, rouge_l, rouge_n, words
from s2s.metrics.significance import Comparison, paired_bootstrap

__all__ = [
    "Comparison",
    "Scores",
    "characters",
    "paired_bootstrap",
    "rouge_l",
    "rouge_l_by_sentence",
    "rouge_n",
    "score",
    "show",
    "words",
]
