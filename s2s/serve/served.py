"""A run as the server holds it: its weights laid out for decoding once, and searches that the worker can end."""

from collections.abc import Callable
from dataclasses import replace

from s2s.run import Run
from s2s.search.generation import Models
from s2s.search.method import SearchMethod


class Served:
    """A run and its models; each search calls ``check`` at its steps, and ends with what that raises."""

    def __init__(self, run: Run, check: Callable[[], object]) -> None:
        self.run, self.check = run, check
        self._models = replace(run.models(run.recipe.search), check=check)
        _ = self._models.prepared  # now: no request waits for it, and none is charged with its memory

    def models(self, settings: SearchMethod) -> Models:
        """Return the models in the settings' precision; another than the run's own is laid out for this search."""
        wanted = self.run.models(settings).precision
        return self._models if wanted == self._models.precision else replace(self._models, precision=wanted)
