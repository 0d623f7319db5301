"""Keys that hold text get what is written in the recipe, not what YAML 1.1 makes of it."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf


def as_written(node: DictConfig, key: str, value: Any, texts: Mapping[str, str]) -> Any:
    """The value for a ``key`` of a section, ``no`` and ``1e3`` as they stand where the key holds text.

    ``texts`` has the written form of the value under "" or, of a list's items, under ".0", ".1" and so on.
    """
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(node, parent) if parent else node
    kind = OmegaConf.get_type(section) if isinstance(section, DictConfig) else None
    hint = get_type_hints(kind).get(name) if is_dataclass(kind) and isinstance(kind, type) else None
    return _restored(hint, value, texts, "")


def _restored(hint: Any, value: Any, texts: Mapping[str, str], place: str) -> Any:
    kinds = [hint] if get_origin(hint) in (list, Literal) else [*get_args(hint), hint]
    for kind in kinds:
        if _is_text(kind) and isinstance(value, bool | int | float):
            return texts.get(place, value)
        if get_origin(kind) is list and isinstance(value, list):
            items = get_args(kind)[0]
            return [_restored(items, item, texts, f"{place}.{index}") for index, item in enumerate(value)]
    return value


def _is_text(hint: Any) -> bool:
    return hint is str or (get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint)))
