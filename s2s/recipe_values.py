"""The settings of a recipe as plain values: the rows of tables by their names, and everything by dotted keys."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from s2s.labelling import HEADS
from s2s.mitigations import MITIGATIONS
from s2s.optim import OPTIMIZERS, SCHEDULES
from s2s.search.methods import SEARCHES

TABLES: dict[str, dict[str, Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "search": SEARCHES}
LISTS: dict[str, dict[str, Any]] = {"mitigations": MITIGATIONS}
NAMES: dict[str, dict[str, Any]] = {"heads": HEADS}


def plain(recipe: Any) -> dict[str, Any]:
    """All settings as nested values, as a recipe file would hold them."""
    values = _fields(recipe)
    assert isinstance(values, dict)
    for section, table in TABLES.items():
        values[section] = {"name": name_of(table, getattr(recipe, section)), **values[section]}
    for section, table in LISTS.items():
        values[section] = [{"name": name_of(table, row), **_fields(row)} for row in getattr(recipe, section)]
    for section, table in NAMES.items():
        rows = getattr(recipe, section).items()
        values[section] = {name: {"name": name_of(table, row), **_fields(row)} for name, row in rows}
    return values


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested settings and their values."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif key in LISTS:
            for index, row in enumerate(value):
                yield from flat(row, f"{key}[{index}].")
        else:
            yield prefix + key, value


def _fields(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _fields(getattr(value, item.name)) for item in fields(value)}
    return value


def name_of(table: dict[str, Any], row: Any) -> str:
    """The name of the table's row that an object was made from."""
    return next(name for name, kind in table.items() if type(row) is kind)
