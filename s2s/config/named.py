"""Sections that hold rows of a table under names of the user's own: ``heads: {tags: {name: crf, field: tags}}``."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from s2s.config.layers import Layer
from s2s.errors import UserError

Rows = dict[str, dict[str, Any]]
Check = Callable[[Layer, str, Any, Mapping[str, type]], object]
"""Refuses a layer's row: (layer, place, row, table)."""


def read_named(before: Rows, layer: Layer, section: str, values: Any, table: Mapping[str, type], check: Check) -> Rows:
    """The keys of the named rows after a layer.

    ``null`` takes a row away; another ``name`` for it keeps the keys that both kinds have.
    """
    if not isinstance(values, dict):
        example = f"{{my_name: {{name: {min(table)}}}}}"
        raise UserError(f"{layer.place(section)}: {section}: expected rows under names, such as {example}")
    rows = dict(before)
    for name, row in values.items():
        place = f"{section}.{name}"
        if not str(name).isidentifier():
            raise UserError(f"{layer.place(place)}: {place}: a name of letters, digits and _ is needed")
        if row is None:
            rows.pop(str(name), None)
            continue
        changed = _changed(rows.get(str(name), {}), row, table)
        check(layer, place, changed, table)
        rows[str(name)] = changed
    return rows


def name_of(table: Mapping[str, Any], row: Any) -> str:
    """The name of the table's row that an object was made from."""
    return next(name for name, kind in table.items() if type(row) is kind)


def _changed(before: dict[str, Any], row: Any, table: Mapping[str, type]) -> Any:
    """A row with another layer's keys over its own."""
    kind = row.get("name", before.get("name")) if isinstance(row, dict) else None
    if not isinstance(kind, str) or kind not in table:
        return row
    known = {"name"} | {item.name for item in fields(table[kind])}
    return {key: value for key, value in before.items() if key in known} | row
