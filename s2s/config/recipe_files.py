"""Recipe files: found by path or by name, with the base of each."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2s.config.layers import Layer, Written, read_file
from s2s.config.values import MisreadError, text_of
from s2s.errors import UserError, nearest
from s2s.files.paths import at_home

SHIPPED = Path(__file__).resolve().parent.parent.parent / "recipes"
SUFFIXES = (".yaml", ".yml")


def recipe_layers(name_or_path: str | Path) -> list[Layer]:
    """Return the layers of a recipe: its base, if it has one, and its own."""
    recipe = completed(read_file(_find(name_or_path)))
    if "base" not in recipe.values:
        return [recipe]
    try:
        base = text_of(recipe.values.pop("base"), "base")
    except MisreadError as error:
        raise UserError(f"{recipe.place('base')}: {error}") from error
    try:
        below = read_file(_find(base, Path(recipe.origin).parent))
    except UserError as error:
        if str(error).startswith("recipe "):
            raise UserError(f"{recipe.place('base')}: base: {error}") from error
        raise
    if "base" in below.values:
        raise UserError(f"{recipe.place('base')}: base '{base}' has a base of its own; one level only")
    return [below, recipe]


def _find(name_or_path: str | Path, beside: Path | None = None) -> Path:
    """Return a recipe's file: a path, also without its suffix, or a name in ./recipes or among the shipped ones.

    A base is looked for ``beside`` the recipe that names it before anywhere else.
    """
    path = at_home(name_or_path)
    folders = [folder for folder in (beside, Path("recipes"), SHIPPED) if folder is not None]
    for file in _candidates(path, beside):
        if file.is_file():
            return file
    if path.suffix in SUFFIXES or len(path.parts) > 1:
        where = "" if beside is None or path.is_absolute() else f" beside the recipe in {beside}"
        raise UserError(f"recipe '{name_or_path}': no such file{where}")
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise UserError(
        f"recipe '{name_or_path}': not in {' or '.join(map(str, folders))}{nearest(str(name_or_path), names)}"
    )


def _candidates(path: Path, beside: Path | None) -> Iterator[Path]:
    """Yield the files that a path or name may mean, the likeliest first."""
    is_name = path.suffix not in SUFFIXES
    for folder in (beside, *([Path("recipes"), SHIPPED] if is_name and len(path.parts) == 1 else []), Path()):
        if folder is None:
            continue
        if not is_name:
            yield folder / path
        yield from (folder / f"{path}{suffix}" for suffix in SUFFIXES if is_name)
    if len(path.parts) > 1:
        yield from (folder / (f"{path}.yaml" if is_name else path) for folder in (Path("recipes"), SHIPPED))


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
