"""The settings of a recipe as plain values: the rows of tables by their names, and everything by dotted keys."""

from collections.abc import Iterator
from typing import Any

from s2s.config import outside_names
from s2s.config.merge import name_of
from s2s.heads import HEADS
from s2s.mitigations import MITIGATIONS
from s2s.optim import OPTIMIZERS, SCHEDULES
from s2s.search.methods import SEARCHES

TABLES: dict[str, dict[str, Any]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "search": SEARCHES}
LISTS: dict[str, dict[str, Any]] = {"mitigations": MITIGATIONS}
NAMES: dict[str, dict[str, Any]] = {"heads": HEADS}


def plain(recipe: Any) -> dict[str, Any]:
    """All settings as nested values, as a recipe file would hold them."""
    values = outside_names.plain(recipe)
    for section, table in TABLES.items():
        values[section] = {"name": name_of(table, getattr(recipe, section)), **values[section]}
    for section, table in LISTS.items():
        values[section] = [
            {"name": name_of(table, row), **outside_names.plain(row)} for row in getattr(recipe, section)
        ]
    for section, table in NAMES.items():
        rows = getattr(recipe, section).items()
        values[section] = {name: {"name": name_of(table, row), **outside_names.plain(row)} for name, row in rows}
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
