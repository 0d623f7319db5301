"""Errors that a user can mend: one clear message, no traceback."""

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
    """Something in the user's files, settings or machine is wrong; the message says what, where and what would do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The ending of an error message: ``; did you mean 'x'?`` or the list of valid ``choices``."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind where it says nothing: for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


DISTRIBUTION = "s2s-exposure"


def install_command(extra: str) -> str:
    """Return the shell command that installs a group of optional dependencies of ``pyproject.toml``.

    In a checkout it names the checkout: an install from the index would put another copy beside the code that runs.
    """
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
    """Import a module of matplotlib, whatever the variable ``MPLBACKEND`` asks for.

    A notebook sets it for the commands that it starts too; where its backend is not installed, matplotlib refuses to be
    imported at all. Figures are written to files here, for which no such backend is needed.
    """
    try:
        return optional_module(name, extra, purpose)
    except ValueError:
        backend = os.environ.pop("MPLBACKEND", None)
        if backend is None:
            raise
        for loaded in [each for each in sys.modules if each.partition(".")[0] == "matplotlib"]:
            del sys.modules[loaded]  # the parts that were loaded do not fit a second try
        try:
            return optional_module(name, extra, purpose)
        finally:
            os.environ["MPLBACKEND"] = backend


def own_version() -> str:
    """Return the version of this project, of a checkout that was never installed too."""
    return _checkout() or version(DISTRIBUTION)


@lru_cache(maxsize=1)
def _checkout() -> str | None:
    """Return the version that the checkout around this package has, or None for an installed package.

    A checkout's own file is asked first: the metadata of an editable install is as old as that install.
    """
    try:
        project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    except OSError:
        return None
    named = project.get("project", {})
    return str(named["version"]) if named.get("name") == DISTRIBUTION else None
