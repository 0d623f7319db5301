"""The ``data:`` keys of a recipe: where examples come from and how long they may be."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from s2s.config.outside_names import outside
from s2s.config.ranges import Count, PathText, Range, Seed, at_least, settle
from s2s.errors import UserError
from s2s.files.paths import at_home

# The standard library, and dependencies (direct or not) with at least twenty usable docstrings each. None is optional:
# the set must not depend on the extras that are installed.
# fmt: off
PACKAGES = [
    "stdlib", "accelerate", "anyio", "click", "filelock", "fsspec", "httpx2", "huggingface_hub", "jinja2", "lxml",
    "markdown_it", "mpmath", "networkx", "numpy", "omegaconf", "portalocker", "pydantic", "pygments", "rich",
    "sacrebleu", "safetensors", "sympy", "tokenizers", "torch", "tqdm", "transformers", "typer",
    "typing_extensions",
]
# fmt: on
# One token more than the special ones, and one example more than the 200 that the copy task holds out.
SourceLength = Annotated[int, at_least(3, 1_000_000)]
TargetLength = Annotated[int, at_least(2, 1_000_000)]
SetSize = Annotated[int, at_least(201)]


LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Neither 0 nor 1: every prefix must be possible, as the model may write any.
Chance = Annotated[float, Range(0, 1, open_low=True, open_high=True)]


@dataclass
class TaskSettings:
    """A recipe's ``data.task``: the hidden Markov chain of ``s2s.data.synthetic``, and how long its sources are."""

    letters: Annotated[int, Range(2, len(LETTERS))] = 8  # size of the alphabet of sources, and of that of targets
    modes: Annotated[int, Range(1, len(LETTERS))] = 2  # ways to write a letter; at most letters
    noise: Chance = 0.05  # probability that a word is drawn from all words, with equal probabilities
    switch: Chance = 0.1  # probability that the mode changes after a word, to any other one
    stay: Chance = 0.1  # probability that the pointer stays after a word
    shortest: Count = 5  # letters of a source
    longest: Count = 20  # letters of a source

    def __post_init__(self) -> None:
        settle(self, "data.task.")
        if self.modes > self.letters:
            raise UserError(f"data.task.modes: {self.modes} is not in 1 .. letters ({self.letters})")
        if self.shortest > self.longest:
            raise UserError(f"data.task.shortest: {self.shortest} is more than longest ({self.longest})")


@dataclass
class StoredSet:
    """A recipe's ``data.dataset``: arguments of ``datasets.load_dataset``."""

    name: PathText | None = field(default=None, metadata=outside("NAME"))  # on the Hugging Face hub, or a folder
    config: str | None = None  # where the set has several
    revision: str | None = None  # a branch, tag or commit
    train: str = "train"  # the name of the split
    dev: str | None = None  # null: dev, val, valid or validation, or else a part of train is held out
    test: str | None = None  # null: test, if there is one

    def __post_init__(self) -> None:
        settle(self, "data.dataset.")


@dataclass
class Draw:
    """A recipe's ``data.draw``: a part of a large train split, to learn from few examples."""

    train: Count | None = None  # examples of the train split that stay; null: all
    test: Count | None = None  # examples of the rest of it that become the test split; null: the data's own
    seed: Seed = 0  # of both draws

    def __post_init__(self) -> None:
        settle(self, "data.draw.")


@dataclass
class DataSettings:
    """A recipe's ``data:``. Exactly one of ``source``, ``path`` (or files) and ``dataset`` must be given."""

    # a built-in set, docstrings, copy or synthetic; or else path
    source: str | None = field(default=None, metadata=outside("NAME", ("copy", "synthetic")))
    # a folder, a file or a pattern such as part-*.csv, a relative one below root
    path: PathText | None = field(default=None, metadata=outside("PATH"))
    # files or patterns, below path or else root
    train_files: list[PathText] = field(default_factory=list, metadata=outside("[FILE]"))
    # likewise; none: a part of train is held out
    dev_files: list[PathText] = field(default_factory=list, metadata=outside("[FILE]"))
    # likewise
    test_files: list[PathText] = field(default_factory=list, metadata=outside("[FILE]"))
    # decoded JSONL: its best hypotheses replace the targets of train, a line a row; relative to the current folder
    targets: PathText | None = field(default=None, metadata=outside("FILE"))
    dataset: StoredSet = field(default_factory=StoredSet)  # or else a set of the datasets library
    # null: the environment variable S2S_DATA, else data
    root: PathText | None = field(default=None, metadata=outside("FOLDER"))
    source_field: str = "source"  # of a row: the text to read; a.b is the b within a
    target_field: str | None = "target"  # of a row: the text to generate, or a list; null: no targets
    # of the prompt of a causal language model, {source} and {target} within a text, or chat: the tokenizer's own; null:
    # both with a line end between them. Of an encoder-decoder: {source} within a text, such as its task
    template: str | None = None
    split: Literal["blanks", "characters"] = "blanks"  # how a source given as text falls into tokens, for heads
    draw: Draw = field(default_factory=Draw)  # a part of a large train split
    on_error: Literal["stop", "skip"] = "stop"  # a malformed line is an error, or is counted and left out
    max_source: SourceLength = 256  # tokens, special ones included; longer sources are cut and counted
    max_target: TargetLength = 48  # likewise
    lang: str = "en"  # of the targets: how metrics cut texts into words
    packages: list[str] = field(default_factory=PACKAGES.copy)  # read for docstrings; stdlib: Python's own
    # a folder; null: the environment variable S2S_CACHE, else ~/.cache/s2s
    cache: PathText | None = field(default=None, metadata=outside("FOLDER"))
    size: SetSize = 4000  # examples of the copy task, of which 200 are held out, or of the synthetic one: a fifth
    task: TaskSettings = field(default_factory=TaskSettings)  # of the synthetic set

    def __post_init__(self) -> None:
        settle(self, "data.")
        for key in ("source_field", "target_field", "lang"):
            if getattr(self, key) is not None and not getattr(self, key).strip():
                raise UserError(f"data.{key}: it is blank; it must be a name")
        if self.targets is not None and self.target_field is None:
            raise UserError("data.targets: they replace the targets of train, but data.target_field is null")
        if self.on_error not in ("stop", "skip"):
            raise UserError(f"data.on_error: '{self.on_error}' is unknown; valid: skip, stop")
        for package in self.packages:
            if not package.isidentifier():
                raise UserError(f"data.packages: '{package}' is not the name of a top-level package, such as 'numpy'")


def check_origin(data: DataSettings) -> None:
    """Raise a `UserError` unless exactly one origin is given."""
    files = [*data.train_files, *data.dev_files, *data.test_files]
    origins = {"source": data.source, "path": data.path or (files and "files"), "dataset": data.dataset.name}
    given = [f"{key} is '{value}'" for key, value in origins.items() if value]
    if len(given) != 1:
        state = " and ".join(given) or "none is given"
        raise UserError(f"data.source, data.path: exactly one of the two or data.dataset.name must be given; {state}")


def root_folder(data: DataSettings) -> Path:
    """Return the folder that a relative ``path`` starts from."""
    return at_home(data.root or os.environ.get("S2S_DATA") or "data")
