"""Recipe files: found by path or by name, with what lies below them."""

from pathlib import Path

from s2s.config.former import completed
from s2s.config.layers import Layer, read_file
from s2s.errors import UserError, nearest

SHIPPED = Path(__file__).resolve().parent.parent.parent / "recipes"


def recipe_layers(name_or_path: str | Path) -> list[Layer]:
    """The layers of a recipe: its base, if it has one, and its own."""
    recipe = completed(read_file(_find(name_or_path)))
    base = recipe.values.pop("base", None)
    if base is None:
        return [recipe]
    below = read_file(_find(str(base), Path(recipe.origin).parent))
    if "base" in below.values:
        raise UserError(f"{recipe.place('base')}: base '{base}' has a base of its own; one level only")
    return [below, recipe]


def _find(name_or_path: str | Path, beside: Path | None = None) -> Path:
    """A recipe's file: the path itself, or a name beside another recipe, in ./recipes or among the shipped ones."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"recipe '{path}': no such file")
    folders = [folder for folder in (beside, Path("recipes"), SHIPPED) if folder is not None]
    for folder in folders:
        if (file := folder / f"{name_or_path}.yaml").is_file():
            return file
    names = {file.stem for folder in folders for file in folder.glob("*.yaml")}
    raise UserError(
        f"recipe '{name_or_path}': not in {' or '.join(map(str, folders))}{nearest(str(name_or_path), names)}"
    )
