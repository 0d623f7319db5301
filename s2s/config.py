"""Typed settings from layers of YAML files and the command line, and errors that name the key, its place and a remedy.

The merging and the types are OmegaConf's; this file adds where a value came from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from s2s.errors import UserError, nearest

Tables = Mapping[str, Mapping[str, type]]
"""Sections whose key ``name`` picks a row of a table of settings classes."""


@dataclass(frozen=True)
class Layer:
    """Values from one place; a later layer overrides an earlier one. ``lines`` has the line of each dotted key."""

    origin: str
    values: dict[str, Any]
    lines: dict[str, int]

    def place(self, key: str) -> str | None:
        """Where the layer sets a key, or the nearest section around it: ``file:line``."""
        parts = key.replace("[", ".").replace("]", "").split(".")
        for length in range(len(parts), 0, -1):
            if (line := self.lines.get(".".join(parts[:length]))) is not None:
                return f"{self.origin}:{line}" if line else self.origin
        return None


def read_file(path: Path) -> Layer:
    """A layer from a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        values = OmegaConf.to_container(OmegaConf.create(text)) if node is not None else {}
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {getattr(error, 'problem', error)}") from error
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: not a mapping of keys to values")
    return Layer(str(path), {str(key): value for key, value in values.items()}, dict(_lines(node, "")))


def _lines(node: yaml.Node | None, prefix: str) -> list[tuple[str, int]]:
    """Each dotted key of a YAML node with its line."""
    if isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), item, item) for index, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    else:
        return []
    found = []
    for name, where, value in pairs:
        found.append((prefix + name, where.start_mark.line + 1))
        found.extend(_lines(value, prefix + name + "."))
    return found


def read_arguments(arguments: Sequence[str]) -> Layer:
    """A layer from ``key=value`` arguments; a value is YAML."""
    for argument in arguments:
        if "=" not in argument.lstrip("="):
            raise UserError(f"command line: '{argument}' is not key=value")
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist([_quote(argument) for argument in arguments]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"command line: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    keys = [argument.partition("=")[0] for argument in arguments]
    return Layer("command line", {str(key): value for key, value in values.items()}, dict.fromkeys(keys, 0))


def _quote(argument: str) -> str:
    """The argument as YAML: a lone ``-``, standard input or output, is no empty list."""
    return argument.removesuffix("-") + "'-'" if argument.endswith("=-") else argument


def merge(schema: type, layers: Sequence[Layer], tables: Tables) -> Any:
    """An instance of the dataclass ``schema`` with the layers' values over its defaults, checked.

    A layer that names another row of a table starts that section anew. Errors: a UserError of one line.
    """
    node = OmegaConf.structured(schema)
    for layer in layers:
        values = dict(layer.values)
        for section in tables.keys() & values.keys():
            values[section] = _pick(node, layer, section, values[section], tables[section])
        node = _merge(node, layer, values)
    try:
        return OmegaConf.to_object(node)
    except (UserError, OmegaConfBaseException) as error:
        raise UserError(_placed(str(error).splitlines()[0], layers)) from error


def _pick(node: DictConfig, layer: Layer, section: str, values: Any, table: Mapping[str, type]) -> Any:
    """Put the named row's defaults into the node; the values that are left are merged over them."""
    if not isinstance(values, dict):
        raise UserError(f"{layer.place(section)}: {section}: expected keys and values, such as {{name: {min(table)}}}")
    values = dict(values)
    name = values.pop("name", None)
    if name is None:
        return values
    if name not in table:
        raise UserError(f"{layer.place(section)}: {section}.name: no '{name}'{nearest(str(name), table)}")
    if OmegaConf.get_type(node[section]) is not table[name]:
        node[section] = OmegaConf.structured(table[name])
    return values


def _merge(node: DictConfig, layer: Layer, values: dict[str, Any]) -> DictConfig:
    try:
        merged = OmegaConf.merge(node, values)
    except ConfigKeyError as error:
        key = error.full_key or str(error.key)
        parent = key.rpartition(".")[0]
        section = OmegaConf.select(node, parent) if parent else node
        choices = [f"{parent}.{child}" if parent else child for child in map(str, section)]
        remedy = nearest(key, choices)
        raise UserError(f"{layer.place(key)}: unknown key '{key}'{remedy}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        reason = str(error).splitlines()[0]
        raise UserError(f"{layer.place(key) or layer.origin}: {key}: {reason}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _placed(message: str, layers: Sequence[Layer]) -> str:
    """A message that begins with a key, behind the place of the last layer that set it."""
    key = message.partition(":")[0]
    places = [place for layer in layers if (place := layer.place(key))]
    return f"{places[-1]}: {message}" if places else message
