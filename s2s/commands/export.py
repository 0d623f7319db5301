"""Write a run for others: ``s2s export run=FOLDER output=FOLDER [form=transformers]``.

``form=transformers`` is a checkpoint of ``transformers`` with its tokenizer: the run's own model with the settings of
its search, or a BERT of a prefix LM. ``form=s2s`` is weights, recipe and vocabulary for ``s2s.load``, without the
optimizer's state. Both have a README.md with the recipe, the data's fingerprint and scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2s.config import merge, read_arguments
from s2s.config.ranges import PathText, settle
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output_folder
from s2s.errors import UserError, nearest
from s2s.runs.export import save_pretrained
from s2s.runs.model_card import Trained
from s2s.runs.run import load
from s2s.runs.transformers_export import export_transformers

USAGE = """\
usage: s2s export run=FOLDER output=FOLDER [form=transformers|s2s] [checkpoint=best|last|average] [scores=FILE]
"""
FORMS: dict[str, Callable[[Trained, Path, Path | None], None]] = {
    "transformers": export_transformers,
    "s2s": lambda run, folder, scores: save_pretrained(run, folder, None, scores),
}


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText = ""  # a run's folder; needed
    output: PathText = ""  # a new folder; needed
    form: str = "transformers"  # transformers: a checkpoint with its tokenizer; s2s: a small folder for s2s.load
    scores: PathText | None = None  # a file of s2s evaluate json=FILE, for the README of the folder
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best

    def __post_init__(self) -> None:
        settle(self)
        for name in ("run", "output"):
            if not getattr(self, name):
                raise UserError(f"{name}=FOLDER is missing; --help shows the usage")
        if self.form not in FORMS:
            raise UserError(f"form: no '{self.form}'{nearest(self.form, FORMS)}")


def export(arguments: Sequence[str]) -> None:
    """Load a run and write it in the form that is asked for."""
    settings = merge(Settings, read_arguments(arguments))
    check_output_folder("output", Path(settings.output), [settings.run, settings.scores])
    run = load(settings.run, settings.checkpoint, device="cpu")
    FORMS[settings.form](run, Path(settings.output), settings.scores and Path(settings.scores))
    print(f"{settings.output}: step {run.step} of {settings.run}, form {settings.form}")


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is written, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, export)
