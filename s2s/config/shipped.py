"""Recipe files: found by path or by name, with the base of each."""

from collections.abc import Iterator
from pathlib import Path

from s2s.config.former import completed
from s2s.config.layers import Layer, read_file
from s2s.config.paths import at_home
from s2s.config.reading import MisreadError, text_of
from s2s.errors import UserError, nearest

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
