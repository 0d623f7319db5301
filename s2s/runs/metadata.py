"""``run.json`` in a run's folder: what the run was last started with, and the list of its lasting files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, cast, get_type_hints

from s2s.errors import UserError, first_line
from s2s.files.atomic import write_atomically
from s2s.files.folders import AGAIN, changed, entries
from s2s.files.foreign import read_json
from s2s.machine.paths import GPU_KERNELS, KERNELS
from s2s.model.backbone import Shape
from s2s.model.backbones import shape_class
from s2s.recipe.run_settings import check_ways
from s2s.runs.weight_files import read_header

FILE, RECIPE, VOCABULARY, WEIGHTS = "run.json", "recipe.yaml", "vocabulary", "weights.safetensors"
BASE = "base.safetensors"  # the frozen weights of a run under LoRA
LISTED = (RECIPE, WEIGHTS, BASE, f"{VOCABULARY}/**/*")
"""The files of a run that ``run.json`` vouches for; checkpoints, which come and go, have a list each."""


@dataclass(frozen=True)
class RunMetadata:
    """The values that a run keeps when it is resumed (shape, data, labels), and those of its last start (device)."""

    architecture: Shape
    data: str  # the data set's fingerprint
    kernel: str  # which computes float32 products: a row of s2s.machine.matmul's tables
    threads: int
    precision: str
    versions: dict[str, str]
    report: list[str]
    labels: dict[str, list[str]] = field(default_factory=dict)  # of each head, by their numbers
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # size and SHA-256 of each; none in early runs
    device: str = ""  # the GPU's name, or cpu; "" in a run of an earlier version
    processes: int | None = None  # in which it was started; None in a run of an earlier version
    sharding: str = "none"  # full where they divide the parameters among them
    paths: dict[str, str] = field(default_factory=dict)  # the ways of s2s.machine.paths, besides the kernel
    processor: str = ""  # whose ways they are; "" on a GPU and in a run of an earlier version

    @property
    def ways(self) -> dict[str, str]:
        """The ways of all paths, for ``s2s.machine.paths.computing``."""
        return {**self.paths, "products": self.kernel}

    @property
    def identity(self) -> str:
        """Digits that differ where weights of another run would mean something else: shape, labels or vocabulary."""
        pieces = {name: line for name, line in self.files.items() if name.startswith(VOCABULARY)}
        parts = [asdict(cast(Any, self.architecture)), self.labels, pieces]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_metadata(folder: Path) -> RunMetadata:
    """Return the metadata of a run.

    Errors: a UserError for a file that is cut, empty or of something else; an OSError where there is none.
    """
    path = folder / FILE
    try:
        values = read_json(path)
        shape = values["architecture"]
        metadata = RunMetadata(**(values | {"architecture": _typed(shape_class(shape), shape)}))
        _typed(RunMetadata, vars(metadata))
        _check_lists(metadata)
        _check_names(metadata.files)
        if metadata.kernel not in {*KERNELS, *GPU_KERNELS}:
            raise ValueError(f"no kernel {metadata.kernel!r}")
        check_ways(metadata.paths, "paths")
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, UserError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path}: cut, empty or not the file of a run ({reason}); {AGAIN}") from error
    return metadata


def _typed(kind: Any, values: Mapping[str, Any]) -> Any:
    """Return the dataclass with these values; raise a TypeError where a value has another type than its field."""
    hints = get_type_hints(kind)
    for name in (item.name for item in fields(kind) if item.name in values):
        hint = getattr(hints[name], "__origin__", hints[name])
        value, allowed = values[name], (int, float) if hint is float else hint
        if not isinstance(value, allowed) or (hint is int and isinstance(value, bool)):
            raise TypeError(f"{name} is {value!r}")
    return kind(**values)


def _check_names(files: Mapping[str, Any]) -> None:
    """Raise a ValueError for a name that leads out of the folder: nobody knows who wrote the file."""
    for name, line in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or {*line} != {"bytes", "sha256"}:
            raise ValueError(f"files lists {name!r}")
        if "\0" in name or any("\ud800" <= mark <= "\udfff" for mark in name):
            raise ValueError(f"files lists {name!r}, which no file can be called")
        if type(line["bytes"]) is not int or line["bytes"] < 0 or not isinstance(line["sha256"], str):
            raise ValueError(f"files has no size and hash of {name!r}")


def _check_lists(metadata: RunMetadata) -> None:
    """Raise a TypeError for a list in the metadata that holds anything but texts."""
    lists = {"report": metadata.report, "versions": list(metadata.versions.values())}
    lists |= {f"labels.{name}": labels for name, labels in metadata.labels.items()}
    for name, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{name} is {str(texts)[:40]}, and no list of texts")


def write_metadata(folder: Path, metadata: RunMetadata) -> None:
    """Write the metadata of a run, and the list of its files as they are now."""
    whole = asdict(metadata) | {"files": entries(folder, LISTED)}
    write_atomically(folder / FILE, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def identity(folder: Path) -> str | None:
    """Return the identity of a folder's run, or None where it has no ``run.json``."""
    return read_metadata(folder).identity if (folder / FILE).is_file() else None


def check_files(folder: Path, metadata: RunMetadata, below: str) -> None:
    """Refuse a folder whose files with this beginning of their names are not those that ``run.json`` lists."""
    for name, line in metadata.files.items():
        if name.startswith(below) and (change := changed(folder / name, line)) is not None:
            raise UserError(
                f"{folder / name}: {change}, by the list in {FILE}; {AGAIN}, or, if it is meant, remove its line there"
            )


def check_weights(folder: Path, metadata: RunMetadata, weights: Path) -> None:
    """Refuse a file of weights whose header names another run than the folder's ``run.json``."""
    check_files(folder, metadata, WEIGHTS)
    if (run := read_header(weights).run) is not None and run != metadata.identity:
        raise UserError(
            f"{folder / FILE}: of another run than {weights}: its shape, labels or vocabulary are not theirs; {AGAIN}"
        )
