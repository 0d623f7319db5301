"""Keys that came after a run was saved, with the values by which it was trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from s2s.config.layers import Layer, Written

MARK = "run.json"
"""The file beside a recipe that a run has saved."""
ROWS: dict[str, dict[str, dict[str, Any]]] = {"mitigations": {"brio": {"pairs": "sum"}}}
"""By section and row. A saved recipe holds every key of its time, so a row without one of these is older than the key,
and the key's default of today would change what the run means."""


def completed(layer: Layer) -> Layer:
    """Return the layer of a recipe's file; where a run saved it, with the keys that it lacks as they were then."""
    if not (Path(layer.origin).parent / MARK).is_file():
        return layer
    values = dict(layer.values)
    for section, former in ROWS.items():
        if isinstance(rows := values.get(section), list):
            values[section] = [{**_former(row, former), **row} if isinstance(row, dict) else row for row in rows]
    return replace(layer, values=values)


def _former(row: dict[str, Any], former: dict[str, dict[str, Any]]) -> dict[str, Any]:
    name = row.get("name")
    return former.get(name.text, {}) if isinstance(name, Written) else {}
