"""Average the last checkpoints of a run: ``python scripts/average.py run=FOLDER [last=5]``.

The result is the run's checkpoint "average": ``s2s.load(FOLDER, "average")``, or ``checkpoint=average`` when decoding.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _checkout  # noqa: F401

from s2s.config import merge, read_arguments
from s2s.config.help import explain
from s2s.config.ranges import Count, PathText, settle
from s2s.console import exit_codes
from s2s.errors import UserError
from s2s.files.foreign import check_inside
from s2s.runs import averaging, run_folder

USAGE = "usage: python scripts/average.py run=FOLDER [last=5]"


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""  # a run's folder; needed
    last: Count = 5  # so many of its newest checkpoints; training keeps run.keep of them

    def __post_init__(self) -> None:
        settle(self)


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when the average is written, 2 after an error of the user's."""
    if not arguments:
        print(USAGE)
        return 2
    if {"-h", "--help"} & set(arguments):
        return exit_codes.run(lambda: print(explain(USAGE, Settings, arguments)))
    return exit_codes.run(lambda: _command(arguments))


def _command(arguments: Sequence[str]) -> None:
    settings = merge(Settings, read_arguments(arguments))
    if not settings.run:
        raise UserError(f"command line: run=FOLDER is missing\n{USAGE}")
    folder = Path(settings.run)
    check_inside(folder)  # before a lock is written there
    run_folder.read_recipe(folder)  # says so if there is no run
    with run_folder.locked(folder, print):
        weights, steps = averaging.average(folder, settings.last)
        place = averaging.save(folder, weights, steps)
    print(f"{place}: the average of the steps {', '.join(map(str, steps))}; decode with checkpoint=average")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
