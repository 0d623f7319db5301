"""A picture of a model's weights at the start; it needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from s2s.errors import matplotlib_module
from s2s.files.atomic import open_output
from s2s.model.initialization.report import Depth, Matrix


def draw(path: Path, matrices: Sequence[Matrix], depths: Sequence[Depth]) -> None:
    """Norm ratios and cosines of the matrices, in their order, and lengths through depth.

    Errors: a UserError where matplotlib is not installed, with the command that installs it.
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
