"""A run's search as ``GenerationConfig`` of ``transformers``, for exports."""

from dataclasses import fields
from typing import Any

from transformers import GenerationConfig

from s2s.errors import UserError
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings
from s2s.search.methods.sampling import SampleSettings
from s2s.vocabulary import Vocabulary

STOPPING = {"safe": "never", "never": "never", "heuristic": False, "first": True}
"""The value of ``early_stopping`` for each row of ``STOPS``; ``never`` has the results of the safe stop."""
NO_RESULT = {"batch", "precision", "token_scores", "seed"}
"""Keys of a search that do not change which texts are likely."""
BEAM_KEYS = {"beams", "n_best", "length_penalty", "stop"}
SAMPLE_KEYS = {
    "samples": "num_return_sequences",
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical": "typical_p",
    "epsilon": "epsilon_cutoff",
    "eta": "eta_cutoff",
}
"""The names in ``transformers`` of keys that mean the same there; ``top_k`` has another default."""


def generation_config(
    search: SearchMethod, max_length: int, vocabulary: Vocabulary, shape: ForeignArchitecture
) -> tuple[GenerationConfig, list[str]]:
    """Return the settings of ``generate`` that search as the run does, and the keys that these cannot hold."""
    begin, *first = [*shape.prefix, vocabulary.start]
    if len(first) > 1:
        raise UserError(f"export: transformers begins a target with at most two tokens, this run with {shape.prefix}")
    # No text is written with the unknown piece, nor with rows of the table that are no pieces.
    never = [*vocabulary.never_written, *range(vocabulary.size, shape.vocabulary)]
    values: dict[str, Any] = {
        "pad_token_id": vocabulary.padding,
        "eos_token_id": vocabulary.end,
        "max_new_tokens": max_length + len(first),
        "suppress_tokens": never or None,
    }
    if shape.backbone == "encoder_decoder":
        values |= {"decoder_start_token_id": begin, "forced_bos_token_id": first[0] if first else None}
    if search.min_length:
        values["min_new_tokens"] = search.min_length + len(first)
    known = {"max_length", "min_length", *NO_RESULT}
    # For a causal LM, the library counts the prompt's n-grams too.
    if search.no_repeat_ngram and shape.backbone == "encoder_decoder":
        values["no_repeat_ngram_size"] = search.no_repeat_ngram
        known.add("no_repeat_ngram")
    if type(search) is SearchSettings:
        values |= _beams(search)
        known |= BEAM_KEYS
    elif type(search) is SampleSettings:
        values |= {"do_sample": True, "top_k": search.top_k or 0}
        values |= {name: getattr(search, key) for key, name in SAMPLE_KEYS.items() if getattr(search, key)}
        known |= {*SAMPLE_KEYS, "top_k"}
    return GenerationConfig(**values), _lost(search, known)


def _beams(search: SearchSettings) -> dict[str, Any]:
    if search.beams == 1:
        return {"num_beams": 1, "do_sample": False}
    return {
        "num_beams": search.beams,
        "num_return_sequences": search.n_best,
        "length_penalty": search.length_penalty,
        "early_stopping": STOPPING[search.stop],
        "do_sample": False,
    }


def _lost(search: SearchMethod, known: set[str]) -> list[str]:
    """Return the keys of a search that differ from their defaults and are not known to ``transformers``."""
    default = type(search)()
    keys = [field.name for field in fields(search) if getattr(search, field.name) != getattr(default, field.name)]
    lost = [f"search.{key}" for key in keys if key not in known]
    return lost if type(search) in (SearchSettings, SampleSettings) else ["search.name", *lost]
