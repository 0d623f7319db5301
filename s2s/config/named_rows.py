"""Rows of tables by their names."""

from collections.abc import Mapping
from typing import Any


def name_of(table: Mapping[str, Any], row: Any) -> str:
    """Return the name of the table's row that an object was made from."""
    return next(name for name, kind in table.items() if type(row) is kind)
