"""The project as an installed package: its version, and the optional packages that some features need.

On the package index ``s2s`` is an unrelated project, so this one is distributed as ``s2s-exposure``. Every message
that tells how to install something comes from here, so that none of them can name the wrong project.
"""

import os
import sys
import tomllib
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from s2s.errors import UserError

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
