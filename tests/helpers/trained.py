"""Small runs that tests of whole commands share: a minute's training would be too long, seconds do."""

from s2s import Recipe, fit

TINY = [
    "data.size=400",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "run.steps=40",
    "run.tokens=1024",
    "run.evaluate_every=40",
    "run.save_every=40",
    "run.evaluate_examples=2",
]


def trained(folder, *overrides):
    """A run of the copy task in a folder, good enough to be sometimes right."""
    return fit(Recipe.load("toy_copy", [*TINY, f"run.folder={folder}", *overrides]))
