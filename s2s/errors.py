"""Errors that the user can mend, shown as one line without a traceback, and packages that need not be installed."""

import os
import sys
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType


class UserError(Exception):
    """A fault in the user's files, settings or machine; the message says what is wrong, where, and what would work."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the end of an error message: ``; did you mean 'x'?``, or all ``choices`` where none is similar."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; valid: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the exception's class where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shortened(line: str, most: int) -> str:
    """Return a line without what is beyond its first ``most`` characters, which three dots replace."""
    return line if len(line) <= most else f"{line[:most]} ..."


DISTRIBUTION = "s2s-exposure"
"""The project's name on the package index, where ``s2s`` is an unrelated project."""


def own_version() -> str:
    """Return the version of this project, installed or run from a checkout that was never installed."""
    return _checkout() or version(DISTRIBUTION)


@lru_cache(maxsize=1)
def _checkout() -> str | None:
    """Return the version in the ``pyproject.toml`` next to this package, or None if it is not this project's."""
    # The file comes before the metadata of an editable install, which are as old as that install.
    try:
        text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return None
    project = tomllib.loads(text).get("project", {})
    return str(project["version"]) if project.get("name") == DISTRIBUTION else None


def install_command(extra: str) -> str:
    """Return the shell command that installs a group of optional dependencies of ``pyproject.toml``."""
    # In a checkout, an install from the index would add a second copy of the package next to the code that runs.
    return f"pip install -e '.[{extra}]'" if _checkout() else f"pip install '{DISTRIBUTION}[{extra}]'"


def optional_module(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency, or raise a ``UserError`` that says how to install it.

    ``purpose`` begins the message: "the report", "run.fused_loss".
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        raise UserError(f"{purpose} needs the package {package}: {install_command(extra)}") from error


def matplotlib_module(name: str, extra: str, purpose: str) -> ModuleType:
    """Import a module of matplotlib, with whatever backend the variable ``MPLBACKEND`` names.

    A notebook sets the variable for the commands that it starts, too. Where that backend is not installed, matplotlib
    cannot be imported at all, although figures are only written to files here, for which no backend is needed.
    """
    try:
        return optional_module(name, extra, purpose)
    except ValueError:
        backend = os.environ.pop("MPLBACKEND", None)
        if backend is None:
            raise
        # The half-loaded modules of the first try would make a second one fail.
        for module in [module for module in sys.modules if module.partition(".")[0] == "matplotlib"]:
            del sys.modules[module]
        try:
            return optional_module(name, extra, purpose)
        finally:
            os.environ["MPLBACKEND"] = backend
