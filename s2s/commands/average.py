"""Average the last checkpoints of a run: ``s2s average run=FOLDER [last=5]``.

The result is the run's checkpoint "average": ``s2s.load(FOLDER, "average")``, or ``checkpoint=average`` when decoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2s.config import merge, read_arguments
from s2s.config.ranges import Count, PathText, settle
from s2s.console.command_line import run_command
from s2s.errors import UserError
from s2s.files.foreign import check_inside
from s2s.runs import checkpoints, run_folder

USAGE = "usage: s2s average run=FOLDER [last=5]"


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""  # a run's folder; needed
    last: Count = 5  # how many of its newest checkpoints; training keeps run.keep of them

    def __post_init__(self) -> None:
        settle(self)
        if not self.run:
            raise UserError("run=FOLDER is missing; --help shows the usage")


def average(arguments: Sequence[str]) -> None:
    """Write the checkpoint "average" of a run."""
    settings = merge(Settings, read_arguments(arguments))
    folder = Path(settings.run)
    check_inside(folder)  # before the file of the lock is written there
    run_folder.read_recipe(folder)  # refuses a folder without a run
    with run_folder.locked(folder, print):
        weights, steps = checkpoints.average(folder, settings.last)
        path = checkpoints.save_average(folder, weights, steps)
    print(f"{path}: the average of the steps {', '.join(map(str, steps))}; decode with checkpoint=average")


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when the average is written, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, average)
