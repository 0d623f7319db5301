"""The arguments of a diagnosis: what to measure, on which data, and where to write the report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s2s.config.ranges import Count, Few, PathText, Seed, Size, settle
from s2s.errors import UserError


@dataclass
class DiagnosisSettings:
    """The keys of ``python -m s2s.diagnose``. Raises `UserError` for a value out of range."""

    run: PathText = ""  # folders of runs, separated by commas; the first run's method is the baseline of comparisons
    data: PathText | None = None  # a file with the first run's fields; or recipe: a split of its training data
    split: Literal["test", "dev"] = "test"  # of that data
    output: PathText | None = None  # folder of the report; null: "diagnosis" in the first run's folder
    examples: Count = 500  # drawn from the data by the seed; where there are fewer, all
    prefixes: list[Count] = field(default_factory=lambda: [2, 5, 10])  # numbers of damaged tokens
    distances: Count = 10  # number of tokens after a damaged prefix whose cost is measured
    # Beam widths of the curve of quality, in rising order.
    beams: list[Few] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32, 64])
    search_examples: Count = 100  # of the examples, for the curve over beam widths
    oracle: PathText | None = None  # folders of runs whose mean replaces the true distribution, where it is unknown
    samples: Few = 4  # texts drawn from the model for each source, for the accumulated error
    seed: Seed = 0  # of all that is drawn: examples, damage, texts, resamples
    resamples: Count = 10_000  # of every bootstrap and randomisation
    batch: Size = 32  # sources read together

    def __post_init__(self) -> None:
        settle(self)
        for name in ("prefixes", "beams"):
            values = getattr(self, name)
            if not values or min(values) < 1 or sorted(set(values)) != values:
                raise UserError(f"{name}: {values} are not different numbers from 1 on, in rising order")
        if not self.folders:
            raise UserError("run: missing; give run=FOLDER, or run=FOLDER,FOLDER to compare")
        for name, folders in (("run", self.folders), ("oracle", self.oracles)):
            if twice := [str(folder) for folder in folders if folders.count(folder) > 1]:
                raise UserError(f"{name}: {twice[0]} is given twice")
        if both := [str(folder) for folder in self.folders if folder in self.oracles]:
            raise UserError(f"oracle: {both[0]} is measured itself; an oracle is another run")

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs."""
        return _paths(self.run)

    @property
    def oracles(self) -> list[Path]:
        """The folders of the runs that are the oracle."""
        return _paths(self.oracle or "")

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return Path(self.output) if self.output else self.folders[0] / "diagnosis"


def _paths(text: str) -> list[Path]:
    return [Path(part.strip()) for part in text.split(",") if part.strip()]
