"""What a run was saved with and is refused or means something else today, as it was meant when the run was trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from s2s.config.layers import Layer, Written

MARK = "run.json"
"""The file beside a recipe that a run has saved."""
ROWS: dict[str, dict[str, dict[str, Any]]] = {"mitigations": {"brio": {"pairs": "sum"}}}
"""By section and row. A saved recipe holds every key of its time, so a row without one of these is older than the key,
and the key's default of today would change what the run means."""


EMPTY: dict[str, list[str]] = {
    "data": ["source", "path", "train_files", "dev_files", "test_files", "root", "cache"],
    "data.dataset": ["name"],
    "model": ["pretrained"],
    "vocabulary": ["name"],
    "mitigations": ["path", "reference"],
    "search": ["allowed"],
}
"""By section, the names outside that could be empty texts and then named nothing."""


def completed(layer: Layer) -> Layer:
    """Return the layer of a recipe's file; where a run saved it, with its keys as they were then.

    Those that it lacks get the values of that time; empty names are left out.
    """
    if not (Path(layer.origin).parent / MARK).is_file():
        return layer
    values = _named(layer.values)
    for section, former in ROWS.items():
        if isinstance(rows := values.get(section), list):
            values[section] = [{**_former(row, former), **row} if isinstance(row, dict) else row for row in rows]
    return replace(layer, values=values)


def _named(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Return the values of a section without its empty names, and those within it."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = f"{section}.{key}" if section else key
        if key in EMPTY.get(section, []) and _is_empty(value):
            continue
        if isinstance(value, list):
            value = [_named(row, inner) if isinstance(row, dict) else row for row in value]
        found[key] = _named(value, inner) if isinstance(value, dict) else value
    return found


def _is_empty(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, Written) and not text.text.strip() for text in texts)


def _former(row: dict[str, Any], former: dict[str, dict[str, Any]]) -> dict[str, Any]:
    name = row.get("name")
    return former.get(name.text, {}) if isinstance(name, Written) else {}
