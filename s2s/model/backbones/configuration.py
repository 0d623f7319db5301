"""Configurations of ``transformers`` as data: the kind of model that each describes, its sizes, and their refusal.

A run's folder holds a configuration as plain values, and ``ForeignArchitecture`` makes the library's own class of it:
no code of a checkpoint runs, and nothing is fetched.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from s2s.errors import UserError, nearest
from s2s.model.architecture import LoraSettings
from s2s.model.backbone import Shape

MAPPINGS = {
    "encoder_decoder": (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, AutoModelForSeq2SeqLM),
    "causal_lm": (MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM),
}
"""The models of each kind in ``transformers``, and the class that makes them."""
UNLIMITED = 1_000_000
"""The positions of a model without a table of them, such as T5."""
HIDDEN = ("intermediate_size", "d_ff", "ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size")
"""Names of the width of the hidden layer, of which a configuration has one or none."""
POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings")
DROPOUTS = ("dropout_rate", "dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout", "resid_dropout", "embd_dropout")
"""Names of the dropout of embeddings and of half-blocks' outputs, which ``model.dropout`` sets."""
CODE = ("auto_map", "custom_pipelines")
"""Keys that name code of the checkpoint's own."""
FIELD = re.compile(
    r"Validation error for field '(?P<key>\w+)':.*(?:\(value: |with value )(?P<value>.*?)(?:\)| doesn't).*"
)
"""The library's sentence for a value of another type."""
WANTED = re.compile(r"expected (?:an? )?(\w+)")
CHECKED = re.compile(r"^Class validation error for validator '\w+': \w+: ")
STATES = ("linear_attention", "conv", "hybrid", "hybrid_sliding", "moe")
"""Types of layers, as the library names them, that keep more or other things than keys and values."""
NO_KEYS = "which keep a state instead of keys and values that targets could share"
PARSE_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, ImportError, NotImplementedError, ZeroDivisionError),
    StrictDataclassError,
)


@dataclass(frozen=True)
class ForeignArchitecture(Shape):
    """A model of ``transformers``: its kind, its configuration as plain values, and its vocabulary's rows."""

    backbone: str
    vocabulary: int
    config: dict[str, Any] = field(default_factory=dict)
    prefix: list[int] = field(default_factory=list)  # ids that an encoder-decoder's decoder reads before a target
    lora: dict[str, Any] = field(default_factory=dict)  # rank, alpha, dropout and targets; nothing without LoRA

    def __post_init__(self) -> None:
        if self.backbone not in MAPPINGS:
            raise UserError(f"model.backbone: no '{self.backbone}' of transformers{nearest(self.backbone, MAPPINGS)}")
        if not 1 <= self.vocabulary <= UNLIMITED * 10:
            raise UserError(f"model: {self.vocabulary} rows of a vocabulary")
        if self.lora:  # checked as a recipe's, since a stranger may have written it
            LoraSettings(**self.lora | {"targets": self.lora.get("targets") or "auto"})

    @cached_property
    def configuration(self) -> PreTrainedConfig:
        """The configuration as the library's own class."""
        return parsed(self.config)

    @property
    def model_type(self) -> str:
        """The family's name in ``transformers``."""
        return str(self.config["model_type"])

    @property
    def layers(self) -> int:  # type: ignore[override]
        """The number of layers, of the decoder where there are two stacks."""
        return int(getattr(self.configuration, "decoder_layers", None) or self.configuration.num_hidden_layers)

    @property
    def width(self) -> int:  # type: ignore[override]
        """The width of the rows."""
        return int(self.configuration.hidden_size)

    @property
    def heads(self) -> int:  # type: ignore[override]
        """The number of heads of attention."""
        return int(self.configuration.num_attention_heads)

    @property
    def feed_forward(self) -> int:  # type: ignore[override]
        """The width of the hidden layer."""
        # Some have a key that is null, which means four times the width.
        widths = (getattr(self.configuration, name, None) for name in HIDDEN)
        return next((int(width) for width in widths if isinstance(width, int)), 4 * self.width)

    @property
    def positions(self) -> int:  # type: ignore[override]
        """The greatest number of columns, for source and target each in an encoder-decoder."""
        limits = [getattr(self.configuration, name, None) for name in POSITIONS]
        return min([limit for limit in limits if isinstance(limit, int) and limit > 0], default=UNLIMITED)

    def needed(self, source: int, target: int) -> int:
        """Return the positions that a source and a target need: two stacks count separately, one counts on."""
        return source + target if self.backbone == "causal_lm" else max(source, target + len(self.prefix))

    def room(self, source: int) -> int:
        """Return the greatest number of target tokens after a source of ``source`` tokens."""
        return self.positions - (source if self.backbone == "causal_lm" else len(self.prefix))


def parsed(values: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration of plain values. Errors: a UserError for what is none of a known family."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(f"model.config.model_type: transformers has no {kind!r}{_nearest_family(str(kind))}")
    family = CONFIG_MAPPING[kind]
    with parsing(kind, family):
        return family.from_dict(dict(values))


def _nearest_family(name: str) -> str:
    """Return the end of an error message for a name that is no family's."""
    families = [*MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    # Not all of them where none is similar: they are hundreds.
    close = get_close_matches(name.lower(), families, n=1)
    return f"; did you mean '{close[0]}'?" if close else "; it has t5, bart, marian, gpt2, llama, qwen3 and others"


@contextmanager
def parsing(kind: str, defaults: Callable[[], PreTrainedConfig]) -> Iterator[None]:
    """Turn the errors of the library's configurations into a UserError that names the key, where they name it."""
    try:
        yield
    except PARSE_ERRORS as error:
        # The library's own checks have their reason in a second line.
        reason = " ".join(str(error).split())
        if (match := FIELD.match(reason)) is None:
            raise UserError(f"model.config: no configuration of a {kind}: {CHECKED.sub('', reason)}") from error
        key, value = match["key"], match["value"]
        wanted = " or ".join(sorted({"null" if name == "NoneType" else name for name in WANTED.findall(reason)}))
        default = getattr(defaults(), key, None)
        raise UserError(f"model.config.{key}: {value} is no {wanted}; a {kind} has {default!r} by default") from error


def plain(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a configuration as values that JSON holds, without paths and names of kernels."""
    # Whole, and not only what differs from the defaults: a later version of the library may have others.
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if not key.startswith("_") and key != "transformers_version"}


def kind_of(config: PreTrainedConfig) -> str | None:
    """Return the kind of ``MAPPINGS`` that a configuration describes, or None."""
    if getattr(config, "is_encoder_decoder", False):
        return "encoder_decoder" if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING else None
    return "causal_lm" if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None


def with_dropout(config: PreTrainedConfig, dropout: float, given: Mapping[str, Any]) -> list[str]:
    """Set the dropout of a configuration, apart from keys that were ``given``; return a line on it."""
    names = [name for name in DROPOUTS if isinstance(getattr(config, name, None), int | float)]
    if not names:
        return [
            f"model.dropout: a {config.model_type} has none"
            + "; attention_dropout is a key of model.config" * hasattr(config, "attention_dropout")
        ]
    for name in names:
        if name not in given and config.attribute_map.get(name) not in given:
            setattr(config, name, dropout)
    return []


def refuse(config: PreTrainedConfig) -> None:
    """Refuse a configuration that names code or needs weights in other formats."""
    for key in CODE:
        if getattr(config, key, None):
            raise UserError(f"model: the configuration has '{key}', code of the checkpoint's own, which is not run")
    if parts := _parts(config):
        raise UserError(
            f"model: a {config.model_type} has several configurations ({', '.join(parts)}); a family of texts alone "
            "has one"
        )
    if states := sorted({*(getattr(config, "layer_types", None) or ())} & {*STATES}):
        raise UserError(f"model: a {config.model_type} has layers of {', '.join(states)}, {NO_KEYS}")
    if getattr(config, "quantization_config", None):
        raise UserError("model: the checkpoint's weights are quantised and cannot be trained; take the unquantised one")


def _parts(config: PreTrainedConfig) -> list[str]:
    """Return the names of the parts of a configuration in which texts have a part of their own."""
    try:
        is_one = config.get_text_config() is config
    except ValueError:  # it has several for texts
        is_one = False
    return [] if is_one else sorted(config.sub_configs)


def implementation(kind: str, config: PreTrainedConfig) -> str:
    """Return the attention to compute with: torch's fused one, where the family has it and does not cap its scores."""
    fused = getattr(MAPPINGS[kind][0].get(type(config), None), "_supports_sdpa", False)
    return "sdpa" if fused and not getattr(config, "attn_logit_softcapping", None) else "eager"
