"""Recipe files: found by path or name, and read with their base; a saved one also with the values of its time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2s.config.layers import Layer, Written, read_file
from s2s.config.values import MisreadError, text_of
from s2s.errors import UserError, nearest
from s2s.files.paths import at_home

_PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEEL = _PACKAGE / "shipped_recipes"
SHIPPED = IN_WHEEL if IN_WHEEL.is_dir() else _PACKAGE.parent / "recipes"
"""The folder of the recipes that come with the package: an installed package has them within, see pyproject.toml."""
SUFFIXES = (".yaml", ".yml")
MARK = "run.json"
"""A file that is in the folder of a recipe if, and only if, a run saved that recipe."""
FORMER_VALUES: dict[str, dict[str, dict[str, Any]]] = {"mitigations": {"brio": {"pairs": "sum"}}}
"""Values of keys that did not exist in earlier versions, by section and row.

A saved recipe holds every key of its time, so a row without one of these is older than the key. Today's default of the
key would change what the run computes.
"""
NULLABLE_NAMES: dict[str, list[str]] = {
    "data": ["source", "path", "train_files", "dev_files", "test_files", "root", "cache"],
    "data.dataset": ["name"],
    "model": ["pretrained"],
    "vocabulary": ["name"],
    "mitigations": ["path", "reference"],
    "search": ["allowed"],
}
"""Keys, by section, that earlier versions saved as empty texts; today's refuse those and have null."""


def recipe_layers(name_or_path: str | Path, folder: Path | None = None) -> list[Layer]:
    """Return the layer of a recipe, after that of its base if it names one.

    It is looked for first in the ``folder`` of a file that names it, if there is one.
    """
    recipe = completed(read_file(_find(name_or_path, folder)))
    if "base" not in recipe.values:
        return [recipe]
    try:
        name = text_of(recipe.values.pop("base"), "base")
    except MisreadError as error:
        raise UserError(f"{recipe.position('base')}: {error}") from error
    try:
        base = read_file(_find(name, Path(recipe.origin).parent))
    except UserError as error:
        # The base was not found, so the line that names it is at fault. A fault inside of the base names its own line.
        if str(error).startswith("recipe "):
            raise UserError(f"{recipe.position('base')}: base: {error}") from error
        raise
    if "base" in base.values:
        raise UserError(f"{recipe.position('base')}: base '{name}' has a base of its own; one level only")
    return [base, recipe]


def _find(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a recipe: a path, with or without suffix, or a name in ./recipes or among the shipped ones.

    A base is looked for first in the ``folder`` of the recipe that names it.
    """
    path = at_home(name_or_path)
    for file in _candidates(path, folder):
        if file.is_file():
            return file
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        where = "" if folder is None or path.is_absolute() else f" next to the recipe in {folder}"
        raise UserError(f"recipe '{name_or_path}': no such file{where}")
    folders = [*([] if folder is None else [folder]), Path("recipes"), SHIPPED]
    names = {file.stem for parent in folders for file in parent.glob("*.yaml")}
    hint = nearest(str(name_or_path), names)
    raise UserError(f"recipe '{name_or_path}': not in {' or '.join(map(str, folders))}{hint}")


def _candidates(path: Path, folder: Path | None) -> Iterator[Path]:
    """Yield the files that a path or name may mean, the likeliest first."""
    is_name = path.suffix not in SUFFIXES
    names = [f"{path}{suffix}" for suffix in SUFFIXES] if is_name else [str(path)]
    known = [Path("recipes"), SHIPPED]
    first = [*([] if folder is None else [folder]), *(known if is_name and len(path.parts) == 1 else []), Path()]
    last = known if len(path.parts) > 1 else []
    yield from (parent / name for parent in first for name in names)
    yield from (parent / names[0] for parent in last)


def completed(layer: Layer) -> Layer:
    """Return the layer of a recipe; one that a run saved gets today's keys with the values that they had in its time.

    Empty names, which named nothing, are left out.
    """
    if not (Path(layer.origin).parent / MARK).is_file():
        return layer
    values = _without_empty_names(layer.values)
    for section, former in FORMER_VALUES.items():
        if isinstance(rows := values.get(section), list):
            values[section] = [
                {**former.get(name.text, {}), **row}
                if isinstance(row, dict) and isinstance(name := row.get("name"), Written)
                else row
                for row in rows
            ]
    return replace(layer, values=values)


def _without_empty_names(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        inner = f"{section}.{key}" if section else key
        if key in NULLABLE_NAMES.get(section, []) and _is_empty(value):
            continue
        if isinstance(value, list):
            value = [_without_empty_names(row, inner) if isinstance(row, dict) else row for row in value]
        kept[key] = _without_empty_names(value, inner) if isinstance(value, dict) else value
    return kept


def _is_empty(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, Written) and not text.text.strip() for text in texts)
