"""What a run was started with: ``run.json`` in its folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from s2s.disk import write_atomically
from s2s.model import Architecture

FILE = "run.json"


@dataclass(frozen=True)
class Facts:
    """What a run was started with and must go on with."""

    architecture: Architecture
    data: str  # the data set's fingerprint
    kernel: str  # which computes float32 products on CPU
    threads: int
    precision: str
    versions: dict[str, str]
    report: list[str]
    labels: dict[str, list[str]] = field(default_factory=dict)  # of each head, by their numbers


def read_facts(folder: Path) -> Facts:
    """The facts of a run."""
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return Facts(**(values | {"architecture": Architecture(**values["architecture"])}))


def write_facts(folder: Path, facts: Facts) -> None:
    """Write the facts of a run."""
    write_atomically(folder / FILE, json.dumps(asdict(facts), indent=1, ensure_ascii=False))
