"""Models of ``transformers`` to start from: a checkpoint, or a configuration of the recipe with random weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from s2s.errors import UserError, first_line
from s2s.files.foreign import FAILURES, check_checkpoint
from s2s.model.architecture import ModelSettings
from s2s.model.backbones import BACKBONES
from s2s.model.backbones.check import trial
from s2s.model.backbones.config_keys import check_keys
from s2s.model.backbones.configuration import (
    MAPPINGS,
    ForeignArchitecture,
    implementation,
    kind_of,
    parsed,
    parsing,
    plain,
    refuse,
    with_dropout,
)
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.model.pretrained import FAMILY, find, quiet

PREFIX_LM_ONLY = ("layers", "width", "heads", "feed_forward", "norm", "positions", "source_slots", "target_slots")
"""Keys of ``model:`` that say nothing of other kinds, whose sizes are keys of ``model.config``."""


def kind(settings: ModelSettings) -> str:
    """Return the row of ``BACKBONES`` that the settings mean.

    Errors: a UserError for a family that is none of them, and for ``model.backbone`` that the family cannot be.
    """
    return _kind(settings, _config(settings))


def _kind(settings: ModelSettings, config: PreTrainedConfig | None) -> str:
    if config is None or config.model_type in FAMILY:
        if settings.backbone not in (None, "prefix_lm"):
            raise UserError(f"model.backbone: '{settings.backbone}' needs a family's checkpoint, or model.config")
        return "prefix_lm"
    described = kind_of(config)
    if described is None or settings.backbone not in (None, described):
        family, asked = config.model_type, settings.backbone or "encoder_decoder or causal_lm"
        raise UserError(f"model.backbone: a {family} is no {asked}; the prefix LM takes {', '.join(FAMILY)}")
    return described


def special_ids(settings: ModelSettings) -> tuple[int | None, int | None]:
    """Return the id with which the model's decoder starts, and its end; None where its configuration has none.

    A configuration without a checkpoint starts a decoder with its padding, as T5 and Marian do.
    """
    config = _config(settings)
    if config is None:
        return None, None
    values = dict(settings.config)
    start, end, padding = (
        values.get(name, getattr(config, name, None))
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    )
    return (padding if start is None else start), (end[0] if isinstance(end, list) else end)


def start(
    settings: ModelSettings, size: int, special: Mapping[str, int], prefix: Sequence[int] = ()
) -> tuple[ForeignBackbone, list[str]]:
    """Return the model of a checkpoint, or one with random weights, for ``size`` pieces; and lines on it.

    ``special`` are the ids of special tokens by the names of the configuration, for a model without a checkpoint;
    ``prefix`` are ids that a decoder reads before every target.
    """
    config = _config(settings)
    assert config is not None
    named = _kind(settings, config)
    _refuse_keys(settings, config.model_type)
    refuse(config)
    scratch = settings.pretrained is None
    check_keys(config, settings.config, size if scratch else int(config.vocab_size))
    if scratch:
        # All keys at once, as some defaults follow from others: the kinds of layers from their number.
        config = parsed({"vocab_size": size, **special, **settings.config})
    else:
        with parsing(config.model_type, type(config)):
            for key, value in settings.config.items():
                setattr(config, key, value)
    report = with_dropout(config, settings.dropout, settings.config)
    if (rows := int(config.vocab_size)) < size:
        raise UserError(f"vocabulary: {size} pieces, but the {config.model_type} has {rows} rows")
    shape = ForeignArchitecture(named, rows, plain(config), list(prefix), settings.lora.values())
    model = BACKBONES[named][0]
    inner = None if scratch else _loaded(settings.pretrained or "", named, config)
    # Measurements of the new model begin in its constructor, so a family may fail there already.
    with trial(shape):
        made = model(shape, inner)
    assert isinstance(made, ForeignBackbone)
    # The library loads a checkpoint in evaluation mode, in which nothing is dropped.
    made.train()
    parameters = sum(parameter.numel() for parameter in made.parameters())
    if shape.lora:
        trained = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
        report = [*report, f"model.lora: {trained:,} of {parameters:,} parameters train"]
    return made, [f"{named}: a {config.model_type} of {parameters:,} parameters, {rows} rows of vocabulary", *report]


def _config(settings: ModelSettings) -> PreTrainedConfig | None:
    if settings.pretrained is None:
        if settings.config and "model_type" not in settings.config:
            raise UserError("model.config: model_type is missing, the family's name in transformers, such as t5")
        return parsed({"model_type": settings.config["model_type"]}) if settings.config else None
    path = find(settings.pretrained)
    try:
        if Path(path).is_dir():
            check_checkpoint(Path(path))
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except FAILURES as error:
        raise UserError(
            f"model.pretrained: '{settings.pretrained}' is no path, no name under $S2S_MODELS, no installed package "
            f"with a model, and from the hub: {first_line(error)}"
        ) from error


def _loaded(name: str, kind: str, config: PreTrainedConfig) -> Any:
    path = find(name)
    try:
        with quiet():
            model, loading = MAPPINGS[kind][1].from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                weights_only=True,  # pytorch_model.bin could hold objects that run code
                attn_implementation=implementation(kind, config),
            )
    except FAILURES as error:
        raise UserError(
            f"model.pretrained: '{name}' has no weights of a {config.model_type}: {first_line(error)}"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"model.pretrained: '{name}' lacks {len(missing)} tensors, among them {missing[0]}")
    model.config.use_cache = False  # passes get a cache of the backbone's, and nothing makes another
    return model


def _refuse_keys(settings: ModelSettings, family: str) -> None:
    """Refuse keys of the prefix LM."""
    default = ModelSettings()
    for key in (*PREFIX_LM_ONLY, "attention", "attention_rank", "initialization"):
        if getattr(settings, key) != getattr(default, key):
            raise UserError(f"model.{key}: it is of the prefix LM; a {family} has its own keys, in model.config")
