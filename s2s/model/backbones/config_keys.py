"""Checks of a recipe's ``model.config``: each mistake is one line with the key, and a value that would be valid.

The library checks the types of values. It takes keys that a family does not read, and sizes for which a later product
fails without a name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

from s2s.errors import UserError, nearest
from s2s.model.architecture import MOST
from s2s.model.backbones.configuration import CODE, DROPOUTS, HIDDEN, POSITIONS
from s2s.model.layers import activations

SIZES = {
    "vocab_size": MOST["vocabulary"],
    "hidden_size": MOST["width"],
    **dict.fromkeys(("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"), MOST["layers"]),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads"), MOST["heads"]),
    **dict.fromkeys(("num_key_value_heads", "head_dim"), MOST["heads"]),
    **dict.fromkeys(HIDDEN, MOST["feed_forward"]),
    **dict.fromkeys(POSITIONS, MOST["positions"]),
}
"""Keys that are sizes, and the greatest that they may be."""
MULTIPLES = (
    ("hidden_size", "num_attention_heads"),
    ("hidden_size", "encoder_attention_heads"),
    ("hidden_size", "decoder_attention_heads"),
    ("num_attention_heads", "num_key_value_heads"),
)
"""Pairs of keys of which the first has to be a multiple of the second."""
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj")
SHARES = (*DROPOUTS, "attention_dropout", "attn_pdrop", "activation_dropout")
ELSEWHERE = {
    **dict.fromkeys(("is_encoder_decoder", "is_decoder", "add_cross_attention"), "the family decides it"),
    **dict.fromkeys(("dtype", "torch_dtype"), "run.precision is the key for it"),
    **dict.fromkeys(("use_cache", "attn_implementation"), "it is chosen here"),
    **dict.fromkeys(CODE, "it names code of a checkpoint's own, which is not run"),
}
"""Keys that are not for a recipe, each with the reason."""


def check_keys(config: PreTrainedConfig, values: Mapping[str, Any], rows: int) -> None:
    """Refuse keys and values with which the configuration's family has no meaning, or only fails later.

    ``config`` has the values of the keys that are not given, and ``rows`` is the number of pieces.
    """
    family, given = config.model_type, values.get("vocab_size", rows)
    rows = given if isinstance(given, int) else rows
    known = {key for key in {*vars(config), *config.attribute_map, *vars(type(config)())} if not key.startswith("_")}
    for key, value in values.items():
        if key in ELSEWHERE:
            raise UserError(f"model.config.{key}: {ELSEWHERE[key]}; leave it out")
        if key not in known | {"model_type"}:
            raise UserError(f"model.config.{key}: a {family} has no such key{nearest(key, known - {*ELSEWHERE})}")
        if reason := _reason(config, key, value, rows):
            raise UserError(f"model.config.{key}: {value!r} {reason}")
    for reason in _not_multiples(config, values):
        raise UserError(f"model.config.{reason}")


def _own(config: PreTrainedConfig, key: str) -> str:
    """Return the family's own name of a key: GPT-2 calls ``hidden_size`` ``n_embd``."""
    return config.attribute_map.get(key, key)


def _reason(config: PreTrainedConfig, key: str, value: Any, rows: int) -> str | None:
    """Return why a family's key cannot have a value, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    most = next((most for name, most in SIZES.items() if key in (name, _own(config, name))), None)
    if most is not None and is_number and not 1 <= value <= most:
        return f"is not in 1 .. {most}"
    if key in SHARES and is_number and not 0 <= value < 1:
        return "is not in [0, 1)"
    if key in ACTIVATIONS and isinstance(value, str):
        name = value.removeprefix("gated-" if key == "feed_forward_proj" else "")
        return None if name in activations() else f"is no activation of transformers{nearest(name, activations())}"
    if key.endswith("_token_id"):
        ids = value if isinstance(value, list) else [value]
        # The library only warns of an id beyond the table, and the first pass over one fails.
        wrong = [id for id in ids if isinstance(id, int) and not 0 <= id < rows]
        return f"is not in 0 .. {rows - 1}, the ids of the vocabulary" if wrong else None
    return None


def _not_multiples(config: PreTrainedConfig, values: Mapping[str, Any]) -> Iterator[str]:
    """Say for each pair of ``MULTIPLES`` that a recipe's values break which value would do."""
    # A class of its own sizes of heads has a default for them.
    own_heads = "head_dim" in config.attribute_map or "head_dim" in values or getattr(type(config), "head_dim", None)
    for first, second in MULTIPLES:
        if first == "hidden_size" and own_heads:
            continue
        names = [_own(config, name) for name in (first, second)]
        whole, part = (
            values.get(theirs, values.get(name, getattr(config, name, None)))
            for theirs, name in zip(names, (first, second), strict=True)
        )
        if not (isinstance(whole, int) and isinstance(part, int) and whole % part):
            continue
        if names[1] in values or second in values:
            # Not above: the nearest size that divides.
            near = max(size for size in range(1, part) if whole % size == 0)
            yield f"{names[1]}: {part} does not divide {names[0]}: {whole}; {near} would"
        elif names[0] in values or first in values:
            yield f"{names[0]}: {whole} is no multiple of {names[1]}: {part}; {part * -(-whole // part)} would be"
