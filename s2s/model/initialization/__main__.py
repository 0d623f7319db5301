"""What a recipe's model starts from: ``python -m s2s.model.initialization recipe=NAME [picture=FILE] [key=value]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from s2s.console import exit_codes
from s2s.console.outputs import check_output
from s2s.console.terminal import plain_console
from s2s.errors import UserError
from s2s.model.initialization.picture import draw
from s2s.model.initialization.report import Depth, Matrix, depths, matrices
from s2s.recipe.recipe import Recipe

USAGE = "usage: python -m s2s.model.initialization recipe=NAME_OR_PATH [picture=FILE] [key=value ...]"
OWN = ("recipe", "picture")


def show(console: Console, found: Sequence[Matrix], lengths: Sequence[Depth]) -> None:
    """Print both tables."""
    table = Table("matrix", "shape", title="linear maps: length of W x over that of x, cosines of columns or rows")
    for head in ("ratio", "cosine", "by chance", "singular values"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in found:
        numbers = f"{row.ratio:.3f}", f"{row.cosine:.4f}", f"{row.chance:.4f}", f"{row.least:.3f} .. {row.most:.3f}"
        table.add_row(row.name, f"{row.outputs} x {row.inputs}", *numbers)
    console.print(table)
    table = Table("after", "signal", "gradient", title="mean length of a row and of the gradient at it")
    for depth in lengths:
        after = f"layer {depth.layer}" if depth.layer else "embedding"
        table.add_row(after, f"{depth.signal:.3f}", f"{depth.gradient:.3g}")
    console.print(table)


def main(arguments: Sequence[str]) -> int:
    """The command: 0, or 2 after an error that the user can mend."""
    if not any(argument.startswith("recipe=") for argument in arguments):
        print(USAGE)
        return 2
    return exit_codes.run(lambda: _command(arguments))


def _command(arguments: Sequence[str]) -> None:
    pairs = [argument.partition("=") for argument in arguments]
    given = {key: value for key, _, value in pairs if key in OWN}
    recipe = Recipe.load(given["recipe"], [text for text in arguments if text.partition("=")[0] not in OWN])
    picture = Path(given.get("picture", "initialization.png"))
    check_output("picture", picture, [given["recipe"]])
    # Without data nothing is known of the pieces but the number that the recipe asks for; a checkpoint has its own.
    model, _ = recipe.build_model(recipe.vocabulary.size if recipe.model.pretrained is None else 0, None)
    console = plain_console(width=120)
    found, lengths = list(matrices(model)), depths(model)
    show(console, found, lengths)
    try:
        draw(picture, found, lengths)
        console.print(f"picture: {picture}")
    except UserError as error:
        console.print(f"no picture: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
