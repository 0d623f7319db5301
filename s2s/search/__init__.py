"""Search for the best continuations of a source under anything that can score a next token."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s2s.search.beam import beam_search
from s2s.search.scorer import Scorer

if TYPE_CHECKING:
    from s2s.search.automata import AllowedOutputs, RequiredPhrases
    from s2s.search.constraints import (
        ConstrainedScorer,
        Constraint,
        ForbiddenPhrases,
        ForcedPrefixes,
        MinimumLength,
        NoRepeatedNgram,
        RepetitionPenalty,
    )
    from s2s.search.diverse import diverse_beam_search
    from s2s.search.ensemble import Ensemble
    from s2s.search.forcing import rerank, token_scores
    from s2s.search.lengths import LengthScore, PowerPenalty, TranslationPenalty, WordReward, relative_lengths
    from s2s.search.minimum_risk import aggregate_bayes_risk, minimum_bayes_risk
    from s2s.search.sampling import Sample, sample_search
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

# Looked up when first asked for: a recipe's settings should wait neither for metrics nor for mitigations.
_MODULES = {
    "automata": ["AllowedOutputs", "RequiredPhrases"],
    "constraints": [
        "ConstrainedScorer",
        "Constraint",
        "ForbiddenPhrases",
        "ForcedPrefixes",
        "MinimumLength",
        "NoRepeatedNgram",
        "RepetitionPenalty",
    ],
    "diverse": ["diverse_beam_search"],
    "ensemble": ["Ensemble"],
    "forcing": ["rerank", "token_scores"],
    "lengths": ["LengthScore", "PowerPenalty", "TranslationPenalty", "WordReward", "relative_lengths"],
    "minimum_risk": ["aggregate_bayes_risk", "minimum_bayes_risk"],
    "sampling": ["Sample", "sample_search"],
    "shrinking": ["shrinking_beam_search"],
    "streaming": ["greedy_stream", "sample_stream"],
}
_HOMES = {name: f"s2s.search.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's2s.search' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
