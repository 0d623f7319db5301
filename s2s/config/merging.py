"""Layers merged into typed settings; the merging and the types are OmegaConf's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from s2s.config.layers import Layer
from s2s.config.named import Rows, read_named
from s2s.config.texts import as_written
from s2s.errors import UserError, nearest

Tables = Mapping[str, Mapping[str, type]]
"""Sections whose key ``name`` picks a row of a table of settings classes."""
NONE: Tables = {}
BEFORE_REFERENCE = re.compile(r"(?<!\\)(\\*)(?=\$\{)")


def merge(schema: type, layers: Sequence[Layer], tables: Tables, lists: Tables = NONE, names: Tables = NONE) -> Any:
    """An instance of the dataclass ``schema`` with the layers' values over its defaults, checked.

    A layer that names another row of a table starts that section anew. ``lists`` are sections that list rows of a
    table; a later layer's list takes the place of an earlier one's, and ``{0: {key: value}}`` changes its first row.
    ``names`` are sections that hold rows of a table under names: see ``read_named``. Errors: a UserError of one line.
    """
    node, rows, named = OmegaConf.structured(schema), dict[str, list[DictConfig]](), dict[str, Rows]()
    for layer in layers:
        values = dict(layer.values)
        for section in lists.keys() & values.keys():
            rows[section] = read_rows(rows.get(section, []), layer, section, values.pop(section), lists[section])
        for section in names.keys() & values.keys():
            table, found = names[section], values.pop(section)
            named[section] = read_named(named.get(section, {}), layer, section, found, table, _new_row)
        for section in tables.keys() & values.keys():
            values[section] = _pick(node, layer, section, values[section], tables[section])
        for key, value in _leaves(node, values, ""):
            node = _merge(node, layer, key, value)
    try:
        made: dict[str, Any] = {
            section: [_make(f"{section}[{i}]", row) for i, row in enumerate(rows[section])] for section in rows
        }
        made |= {section: _make_named(layers[-1], section, named[section], names[section]) for section in named}
        plain = {item.name: _plain(node, item.name) for item in fields(schema) if item.name not in made}
        return schema(**plain, **made)
    except UserError as error:
        raise UserError(_placed(str(error), layers)) from error
    except OmegaConfBaseException as error:
        raise UserError(_placed(f"{error.full_key}: {str(error).splitlines()[0]}", layers)) from error


def _plain(node: DictConfig, key: str) -> Any:
    value = node[key]
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def _make(key: str, row: DictConfig) -> Any:
    """The object of a row of a list; its errors name keys of its own."""
    try:
        return OmegaConf.to_object(row)
    except UserError as error:
        raise UserError(f"{key}.{error}") from error


def _make_named(layer: Layer, section: str, rows: Rows, table: Mapping[str, type]) -> dict[str, Any]:
    """The objects of named rows."""
    nodes = {name: _new_row(layer, f"{section}.{name}", row, table) for name, row in rows.items()}
    return {name: _make(f"{section}.{name}", node) for name, node in nodes.items()}


def read_rows(
    before: list[DictConfig], layer: Layer, section: str, values: Any, table: Mapping[str, type]
) -> list[DictConfig]:
    """The rows of a list section after a layer."""
    if isinstance(values, list):
        return [_new_row(layer, f"{section}[{index}]", row, table) for index, row in enumerate(values)]
    if not isinstance(values, dict) or not all(str(key).isdigit() for key in values):
        example = f"[{{name: {min(table)}}}], or {section}.0.key=value to change a row"
        raise UserError(f"{layer.place(section)}: {section}: expected a list of rows, such as {example}")
    rows = list(before)
    for key, row in values.items():
        place = f"{section}[{key}]"
        if int(key) >= len(rows):
            raise UserError(f"{layer.place(place)}: {place}: the list has {len(rows)} rows, numbered from 0")
        named = isinstance(row, dict) and "name" in row
        rows[int(key)] = _new_row(layer, place, row, table) if named else _change(rows[int(key)], layer, place, row)
    return rows


def _new_row(layer: Layer, place: str, row: Any, table: Mapping[str, type]) -> DictConfig:
    if not isinstance(row, dict) or "name" not in row:
        raise UserError(f"{layer.place(place)}: {place}: expected keys and values, such as {{name: {min(table)}}}")
    name = row["name"]
    if not isinstance(name, str) or name not in table:
        where = layer.place(f"{place}.name")
        raise UserError(f"{where}: {place}.name: no '{name}'{nearest(str(name), table)}")
    keys = {key: value for key, value in row.items() if key != "name"}
    return _change(OmegaConf.structured(table[name]), layer, place, keys)


def _change(node: DictConfig, layer: Layer, place: str, row: Any) -> DictConfig:
    if not isinstance(row, dict):
        raise UserError(f"{layer.place(place)}: {place}: expected keys and values")
    for key, value in row.items():
        node = _merge(node, layer, str(key), value, f"{place}.")
    return node


def _leaves(node: DictConfig, values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The layer's values one by one, so that an error is that of one key; a section of the schema is gone into."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and isinstance(OmegaConf.select(node, key), DictConfig):
            yield from _leaves(node, value, f"{key}.")
        else:
            yield key, value


def _pick(node: DictConfig, layer: Layer, section: str, values: Any, table: Mapping[str, type]) -> Any:
    """Put the named row's defaults into the node; the values that are left are merged over them."""
    if not isinstance(values, dict):
        raise UserError(f"{layer.place(section)}: {section}: expected keys and values, such as {{name: {min(table)}}}")
    values = dict(values)
    if "name" not in values:
        return values
    name = values.pop("name")
    if not isinstance(name, str) or name not in table:
        place = layer.place(f"{section}.name")
        raise UserError(f"{place}: {section}.name: no '{name}'{nearest(str(name), table)}")
    if OmegaConf.get_type(node[section]) is not table[name]:
        node[section] = OmegaConf.structured(table[name])
    return values


def _merge(node: DictConfig, layer: Layer, key: str, value: Any, prefix: str = "") -> DictConfig:
    place = (prefix + key).replace("[", ".").replace("]", "")
    texts = {name.removeprefix(place): text for name, text in layer.texts.items() if name.startswith(place)}
    value = as_written(node, key, value, texts)
    if layer.literal:
        if isinstance(value, str) and "${" in value and OmegaConf.is_config(OmegaConf.select(node, key)):
            raise UserError(f"{layer.place(place) or layer.origin}: {prefix}{key}: {value!r} is text")
        value = _escaped(value)
    if isinstance(value, str) and value == MISSING:
        raise UserError(f"{layer.place(place) or layer.origin}: {prefix}{key}: '???' is no value")
    for name in reversed(key.split(".")):
        value = {name: value}
    try:
        merged = OmegaConf.merge(node, value)
    except ConfigKeyError as error:
        raise UserError(_unknown(node, layer, error.full_key or key, prefix)) from error
    except (TypeError, ValueError, OmegaConfBaseException) as error:
        key = prefix + (getattr(error, "full_key", None) or key)
        raise UserError(f"{layer.place(key) or layer.origin}: {key}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _escaped(value: Any) -> Any:
    """Return a value in which OmegaConf finds no reference: a backslash stands before each, and is taken away again."""
    if isinstance(value, str):
        return BEFORE_REFERENCE.sub(r"\1\1\\", value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return {key: _escaped(item) for key, item in value.items()} if isinstance(value, dict) else value


def _unknown(node: DictConfig, layer: Layer, key: str, prefix: str) -> str:
    parent = key.rpartition(".")[0]
    section = OmegaConf.select(node, parent) if parent else node
    choices = [prefix + (f"{parent}.{child}" if parent else child) for child in map(str, section)]
    key = prefix + key
    return f"{layer.place(key) or layer.origin}: unknown key {key!r}{nearest(key, choices)}"


def _placed(message: str, layers: Sequence[Layer]) -> str:
    """A message that begins with a key, behind the place of the last layer that set it."""
    key = message.partition(":")[0]
    places = [place for layer in layers if (place := layer.place(key))]
    return f"{places[-1]}: {message}" if places else message
