"""A recipe's initial weights: ``python -m s2s.model.initialization recipe=NAME [picture=FILE] [key=value]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2s.console.command_line import exit_code_of
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console
from s2s.errors import UserError, matplotlib_module
from s2s.files.atomic import open_output
from s2s.model.initialization.report import Depth, Matrix, depths, matrices
from s2s.model.transformer import PrefixTransformer
from s2s.recipe.build import build_model
from s2s.recipe.recipe import Recipe

USAGE = "usage: python -m s2s.model.initialization recipe=NAME_OR_PATH [picture=FILE] [key=value ...]"
KEYS = ("recipe", "picture")
"""The command's keys; all others are the recipe's."""


def show(console: Console, matrices: Sequence[Matrix], depths: Sequence[Depth]) -> None:
    """Print a table of the matrices and one of the lengths through depth."""
    table = Table("matrix", "shape", title="linear maps: length of W x over that of x, cosines of columns or rows")
    for head in ("ratio", "cosine", "by chance", "singular values"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in matrices:
        numbers = f"{row.ratio:.3f}", f"{row.cosine:.4f}", f"{row.chance:.4f}", f"{row.least:.3f} .. {row.most:.3f}"
        table.add_row(row.name, f"{row.outputs} x {row.inputs}", *numbers)
    console.print(table)
    table = Table("after", "signal", "gradient", title="mean length of a row and of the gradient at it")
    for depth in depths:
        after = f"layer {depth.layer}" if depth.layer else "embedding"
        table.add_row(after, f"{depth.signal:.3f}", f"{depth.gradient:.3g}")
    console.print(table)


def draw(path: Path, matrices: Sequence[Matrix], depths: Sequence[Depth]) -> None:
    """Draw norm ratios and cosines of the matrices, in their order, and lengths through depth.

    Raises a UserError where matplotlib is not installed, with the command that installs it.
    """
    figures = matplotlib_module("matplotlib.figure", "plots", "the picture")
    figure = figures.Figure(figsize=(12, 4), layout="constrained")
    ratios, cosines, lengths = figure.subplots(1, 3)
    ratios.plot([matrix.ratio for matrix in matrices], ".")
    ratios.axhline(1, color="grey", linewidth=0.5)
    ratios.set(title="length of W x over that of x", xlabel="matrix, from the first layer")
    cosines.plot([matrix.cosine / matrix.chance for matrix in matrices], ".")
    cosines.axhline(1, color="grey", linewidth=0.5)
    cosines.set(title="cosines over those of chance", xlabel="matrix, from the first layer", ylim=(0, None))
    for name in ("signal", "gradient"):
        values = [getattr(depth, name) for depth in depths]
        lengths.semilogy([value / values[0] for value in values], label=name)
    lengths.set(title="length, the embedding's being 1", xlabel="layer")
    lengths.legend()
    with open_output(path) as file:
        figure.savefig(file, dpi=120, format=path.suffix[1:] or None)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0, or 2 after an error that the user can mend."""
    if not any(argument.startswith("recipe=") for argument in arguments):
        print(USAGE)
        return 2
    return exit_code_of(lambda: _command(arguments))


def _command(arguments: Sequence[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    given = {key: value for key, _, value in pairs if key in KEYS}
    recipe = Recipe.load(given["recipe"], [text for text in arguments if text.partition("=")[0] not in KEYS])
    picture = Path(given.get("picture", "initialization.png"))
    check_output("picture", picture, [given["recipe"]])
    # Without data only the recipe's number of pieces is known; a checkpoint has its own.
    model, _ = build_model(recipe, recipe.vocabulary.size if recipe.model.pretrained is None else 0, None)
    if not isinstance(model, PrefixTransformer):
        raise UserError("recipe: it has a model of transformers, which draws its weights by its own laws")
    console = plain_console(width=120)
    report = list(matrices(model)), depths(model)
    show(console, *report)
    try:
        draw(picture, *report)
        console.print(f"picture: {picture}")
    except UserError as error:
        console.print(f"no picture: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
