"""The ``data:`` keys of a recipe: where examples come from and how long they may be."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s2s.errors import UserError

# The standard library, and hard dependencies (direct or not) with at least a score of usable docstrings each.
# fmt: off
PACKAGES = [
    "stdlib", "accelerate", "anyio", "click", "filelock", "fsspec", "httpx2", "huggingface_hub", "jinja2", "lxml",
    "markdown_it", "mpmath", "networkx", "numpy", "omegaconf", "portalocker", "pydantic", "pygments", "rich",
    "sacrebleu", "safetensors", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer",
    "typing_extensions",
]
# fmt: on
# Room for one token besides the special ones, and for one example besides the 200 that the copy task holds out.
SMALLEST = {"max_source": 3, "max_target": 2, "size": 201}


@dataclass
class DataSettings:
    """A recipe's ``data:``; exactly one of ``source`` and ``path`` is to be given before a set can be loaded.

    Raises `UserError` for a value out of range.
    """

    source: str | None = None  # a built-in set, docstrings, copy or synthetic; or else path
    path: str | None = None  # a folder or a file, a relative one below root
    root: str | None = None  # null: the environment variable S2S_DATA, else data
    source_field: str = "source"  # of a row: the text to read
    target_field: str | None = "target"  # of a row: the text to generate; null in a set without targets
    split: Literal["blanks", "characters"] = "blanks"  # how a source given as text falls into tokens, for heads
    on_error: Literal["stop", "skip"] = "stop"  # a malformed line is an error, or is counted and left out
    max_source: int = 256  # tokens, special ones included; longer sources are cut and counted
    max_target: int = 48  # likewise
    lang: str = "en"  # of the targets: how metrics cut texts into words
    packages: list[str] = field(default_factory=PACKAGES.copy)  # read for docstrings; stdlib: Python's own
    cache: str | None = None  # a folder; null: the environment variable S2S_CACHE, else ~/.cache/s2s
    size: int = 4000  # examples of the copy task or of the synthetic one

    def __post_init__(self) -> None:
        for key, least in SMALLEST.items():
            if getattr(self, key) < least:
                raise UserError(f"data.{key}: {getattr(self, key)} is too small; it must be at least {least}")
        for key in ("source_field", "target_field", "lang"):
            if getattr(self, key) is not None and not getattr(self, key).strip():
                raise UserError(f"data.{key}: it is blank; it must be a name")
        if self.on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error: '{self.on_error}' is unknown; valid: skip, stop")
        for package in self.packages:
            if not package.isidentifier():
                raise UserError(f"data.packages: '{package}' is not the name of a top-level package, such as 'numpy'")


def check_origin(data: DataSettings) -> None:
    """Raises `UserError` unless exactly one of ``source`` and ``path`` is given."""
    if (data.source is None) == (data.path is None):
        state = "neither is given" if data.path is None else f"source is '{data.source}' and path is '{data.path}'"
        raise UserError(f"data.source, data.path: exactly one of the two must be given; {state}")


def root_folder(data: DataSettings) -> Path:
    """The folder below which a relative ``path`` lies."""
    return Path(data.root or os.environ.get("S2S_DATA") or "data").expanduser()
