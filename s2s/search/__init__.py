"""Searches for the best continuations of a source, with any scorer of next tokens."""

from s2s.search.beam import beam_search
from s2s.search.constraints import (
    AllowedOutputs,
    ConstrainedScorer,
    Constraint,
    ForbiddenPhrases,
    ForcedPrefixes,
    MinimumLength,
    NoRepeatedNgram,
    RepetitionPenalty,
)
from s2s.search.diverse import diverse_beam_search
from s2s.search.length_scores import LengthScore, PowerPenalty, TranslationPenalty, WordReward, relative_lengths
from s2s.search.mbr import aggregate_bayes_risk, minimum_bayes_risk
from s2s.search.phrases import RequiredPhrases
from s2s.search.rescoring import rerank, token_scores
from s2s.search.sampling import Sample, sample_search
from s2s.search.scorer import Ensemble, Scorer
from s2s.search.shrinking import shrinking_beam_search
from s2s.search.streaming import greedy_stream, sample_stream

__all__ = [
    "AllowedOutputs",
    "ConstrainedScorer",
    "Constraint",
    "Ensemble",
    "ForbiddenPhrases",
    "ForcedPrefixes",
    "LengthScore",
    "MinimumLength",
    "NoRepeatedNgram",
    "PowerPenalty",
    "RepetitionPenalty",
    "RequiredPhrases",
    "Sample",
    "Scorer",
    "TranslationPenalty",
    "WordReward",
    "aggregate_bayes_risk",
    "beam_search",
    "diverse_beam_search",
    "greedy_stream",
    "minimum_bayes_risk",
    "relative_lengths",
    "rerank",
    "sample_search",
    "sample_stream",
    "shrinking_beam_search",
    "token_scores",
]
