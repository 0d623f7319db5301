"""Warm starts: weights of any BERT-family checkpoint that ``transformers`` loads, laid out as this model's."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig
from transformers.utils import logging as transformers_log

from s2s.errors import UserError
from s2s.model.architecture import Architecture, ModelSettings

State = dict[str, Tensor]

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types of ``transformers`` that compute what this model computes, under the names below."""

EMBEDDINGS = {
    "embedding.tokens.weight": "embeddings.word_embeddings.weight",
    "embedding.positions.weight": "embeddings.position_embeddings.weight",
    "embedding.segments.weight": "embeddings.token_type_embeddings.weight",
    "embedding.norm.weight": "embeddings.LayerNorm.weight",
    "embedding.norm.bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.0": "intermediate.dense",
    "feed_forward.2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
# Where BERT and where RoBERTa keep the layers before the output.
TRANSFORMS = (
    {
        "0": "cls.predictions.transform.dense",
        "2": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    {"0": "lm_head.dense", "2": "lm_head.layer_norm", "bias": "lm_head.bias"},
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's architecture, its weights under this model's names, and what did not match, a line each."""

    architecture: Architecture
    state: State
    report: list[str]


def find(name: str) -> str:
    """The place of a checkpoint: a path, a name under $S2S_MODELS, an installed package's folder, else a hub name."""
    folders = [Path(name)]
    if root := os.environ.get("S2S_MODELS"):
        folders.append(Path(root) / name)
    folders.extend(_packaged(name))
    for folder in folders:
        if (folder / "config.json").is_file():
            return str(folder)
    return name


def _packaged(name: str) -> list[Path]:
    """Folders that hold a checkpoint inside the installed distribution ``name``."""
    try:
        inside = files(name) or []
    except (PackageNotFoundError, ValueError):
        return []
    return [Path(str(file.locate())).parent for file in inside if file.name == "model.safetensors"]


def read(settings: ModelSettings, keep: Sequence[int] | None) -> Checkpoint:
    """Read the checkpoint that the settings name; ``keep`` are the rows of its vocabulary that stay, in order."""
    assert settings.pretrained is not None
    config, original, unknown = _load(settings.pretrained)
    shape = _architecture(config, settings, original, keep)
    state, used = _translate(shape, original, keep)
    return Checkpoint(shape, state, _report(config, shape, original, unknown, used))


def _load(name: str) -> tuple[PretrainedConfig, State, list[str]]:
    """Configuration, tensors without the encoder's own prefix (``bert.`` ...), and names that no masked LM has."""
    place = find(name)
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(place)
            _check_family(config, name)
            model, loading = AutoModelForMaskedLM.from_pretrained(place, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.pretrained: '{name}' is no path, no name under $S2S_MODELS, no installed package with a model, "
            f"and from the hub: {reason}"
        ) from error
    absent = set(loading["missing_keys"])
    prefix = model.base_model_prefix + "."
    state = {key.removeprefix(prefix): value for key, value in model.state_dict().items() if key not in absent}
    return config, state, sorted(loading["unexpected_keys"])


def _check_family(config: PretrainedConfig, name: str) -> None:
    kind = config.model_type
    if kind not in FAMILY:
        raise UserError(f"model.pretrained: '{name}' ({kind}) is not of the BERT family: {', '.join(FAMILY)}")
    if config.is_decoder or getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        raise UserError(f"model.pretrained: '{name}' is a decoder or has no absolute positions")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and tables that ``transformers`` prints while it loads; we report in a few lines instead."""
    level, bars = transformers_log.get_verbosity(), transformers_log.is_progress_bar_enabled()
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    try:
        yield
    finally:
        transformers_log.set_verbosity(level)
        if bars:
            transformers_log.enable_progress_bar()


def _architecture(
    config: PretrainedConfig, settings: ModelSettings, state: State, keep: Sequence[int] | None
) -> Architecture:
    _check(config, settings, state)
    table = state[EMBEDDINGS["embedding.positions.weight"]].shape[0]
    offset = _offset(config)
    rows = state[EMBEDDINGS["embedding.tokens.weight"]].shape[0]
    if keep is not None and max(keep) >= rows:
        raise UserError(f"vocabulary: id {max(keep)}, but '{settings.pretrained}' has only {rows} rows")
    return Architecture(
        vocabulary=rows if keep is None else len(keep),
        layers=settings.layers or config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        norm="post",
        positions=settings.positions or table - offset,
        dropout=settings.dropout,
        attention=settings.attention,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        position_offset=offset,
        transform=_transform_names(state) is not None,
    )


def _offset(config: PretrainedConfig) -> int:
    """The row of the first position; RoBERTa's follow its padding id."""
    return 0 if config.model_type == "bert" else config.pad_token_id + 1


def _check(config: PretrainedConfig, settings: ModelSettings, state: State) -> None:
    """Refuse settings that contradict the checkpoint."""
    table = state[EMBEDDINGS["embedding.positions.weight"]].shape[0] - _offset(config)
    given = {
        "width": (settings.width, config.hidden_size),
        "heads": (settings.heads, config.num_attention_heads),
        "feed_forward": (settings.feed_forward, config.intermediate_size),
        "norm": (settings.norm, "post"),
    }
    limits = {"layers": (settings.layers, config.num_hidden_layers), "positions": (settings.positions, table)}
    for key, (asked, there) in given.items():
        if asked is not None and asked != there:
            raise UserError(f"model.{key}: {asked}, but the checkpoint '{settings.pretrained}' has {there}; set null")
    for key, (wanted, most) in limits.items():
        if wanted is not None and wanted > most:
            raise UserError(f"model.{key}: {wanted}, but the checkpoint '{settings.pretrained}' has only {most}")


def _transform_names(state: State) -> dict[str, str] | None:
    return next((names for names in TRANSFORMS if names["0"] + ".weight" in state), None)


def _translate(shape: Architecture, original: State, keep: Sequence[int] | None) -> tuple[State, set[str]]:
    """The state of our model from the checkpoint's, and the names that were used."""
    names = {ours: theirs for ours, theirs in EMBEDDINGS.items() if theirs in original}
    for layer in range(shape.layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{ours}.{kind}"] = f"encoder.layer.{layer}.{theirs}.{kind}"
    if (transform := _transform_names(original)) is not None:
        for part in "02":
            names |= {f"transform.{part}.{kind}": f"{transform[part]}.{kind}" for kind in ("weight", "bias")}
        names["output_bias"] = transform["bias"]
    state = {ours: original[theirs].clone() for ours, theirs in names.items()}
    used = set(names.values()) | _fuse(shape, original, state)
    _fit(shape, state, keep)
    return state, used


def _fuse(shape: Architecture, original: State, state: State) -> set[str]:
    """Put query, key and value of each layer into one projection."""
    used = set()
    for layer in range(shape.layers):
        for kind in ("weight", "bias"):
            parts = [f"encoder.layer.{layer}.attention.self.{part}.{kind}" for part in ("query", "key", "value")]
            state[f"blocks.{layer}.attention.query_key_value.{kind}"] = torch.cat([original[part] for part in parts])
            used.update(parts)
    return used


def _fit(shape: Architecture, state: State, keep: Sequence[int] | None) -> None:
    """Trim vocabulary and positions; give a checkpoint with one segment, or none, a second row."""
    if keep is not None:
        rows = torch.tensor(keep)
        state["embedding.tokens.weight"] = state["embedding.tokens.weight"][rows]
        if "output_bias" in state:
            state["output_bias"] = state["output_bias"][rows]
    last = shape.position_offset + shape.positions
    state["embedding.positions.weight"] = state["embedding.positions.weight"][:last].clone()
    segments = state.get("embedding.segments.weight", torch.zeros(1, shape.width))
    state["embedding.segments.weight"] = torch.cat([segments, segments])[:2] if len(segments) < 2 else segments[:2]


def _report(
    config: PretrainedConfig, shape: Architecture, original: State, unknown: Sequence[str], used: set[str]
) -> list[str]:
    """What the checkpoint has and the model has not, and the other way round."""
    unused = sorted({*original, *unknown} - used - _tied(original))
    lines = [f"warm start: {shape.layers} of {config.num_hidden_layers} layers, width {shape.width}"]
    lines.append(f"vocabulary: {shape.vocabulary} of {config.vocab_size} pieces")
    if unused:
        lines.append(f"not used of the checkpoint: {', '.join(_by_layer(unused))}")
    if not shape.transform:
        lines.append("not in the checkpoint: the prediction head; the output is the embeddings and a bias of zeros")
    segments = original.get(EMBEDDINGS["embedding.segments.weight"])
    if segments is None or len(segments) < 2:
        lines.append("not in the checkpoint: a second segment; the first was copied")
    return lines


def _tied(original: State) -> set[str]:
    """Names of an output layer that only repeats the embeddings and the bias."""
    pairs = [
        ("cls.predictions.decoder.weight", EMBEDDINGS["embedding.tokens.weight"]),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("lm_head.decoder.weight", EMBEDDINGS["embedding.tokens.weight"]),
        ("lm_head.decoder.bias", "lm_head.bias"),
    ]
    return {copy for copy, own in pairs if copy in original and torch.equal(original[copy], original[own])}


def _by_layer(names: Sequence[str]) -> list[str]:
    """Names with the tensors of a whole layer folded into one."""
    folded = [".".join(name.split(".")[:3]) if name.startswith("encoder.layer.") else name for name in names]
    return list(dict.fromkeys(folded))
