"""Write a run for others: ``python scripts/export.py run=FOLDER output=FOLDER [form=transformers]``.

``form=transformers`` is a BERT checkpoint of ``transformers`` with its tokenizer; ``form=s2s`` is weights, recipe and
vocabulary for ``s2s.load``, without the optimizer's state. ``checkpoint`` is best, last or average; the output is a new
folder.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import _checkout  # noqa: F401

import s2s
from s2s.config import merge, read_arguments
from s2s.config.ranges import PathText, settle
from s2s.console import exit_codes
from s2s.console.outputs import check_output_folder
from s2s.errors import UserError, nearest
from s2s.runs.export import Trained, export_transformers, save_pretrained

USAGE = (
    "usage: python scripts/export.py run=FOLDER output=FOLDER [form=transformers|s2s] [checkpoint=best|last|average]\n"
    "  transformers: a BERT checkpoint with its tokenizer; s2s: a small folder that s2s.load reads"
)
FORMS: dict[str, Callable[[Trained, Path], None]] = {"transformers": export_transformers, "s2s": save_pretrained}


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""
    output: PathText = ""
    form: str = "transformers"  # a row of FORMS
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best

    def __post_init__(self) -> None:
        settle(self)
        for name in ("run", "output"):
            if not getattr(self, name):
                raise UserError(f"{name}=FOLDER is missing; --help shows the usage")
        if self.form not in FORMS:
            raise UserError(f"form: no '{self.form}'{nearest(self.form, FORMS)}")


def export(settings: Settings) -> None:
    """Load the run and write it."""
    check_output_folder("output", Path(settings.output), [settings.run])
    run = s2s.load(settings.run, settings.checkpoint, device="cpu")
    FORMS[settings.form](run, Path(settings.output))
    print(f"{settings.output}: step {run.step} of {settings.run}, form {settings.form}")


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all is written, 2 after an error of the user's."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 2
    return exit_codes.run(lambda: export(merge(Settings, read_arguments(arguments))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
