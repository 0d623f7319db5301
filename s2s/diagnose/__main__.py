"""Measure exposure bias: ``s2s diagnose run=FOLDER[,FOLDER ...] data=FILE [output=FOLDER] ...``.

Writes ``report.html``, ``report.json`` and ``tokens.parquet``; the keys are those of ``DiagnosisSettings``.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from s2s.config import merge, read_arguments
from s2s.console.command_line import run_command
from s2s.console.outputs import check_output_files
from s2s.console.terminal import plain_console, progress_bar
from s2s.data.rows import json_text
from s2s.diagnose.passes import Bar, measure, no_bar
from s2s.diagnose.record import record
from s2s.diagnose.report import page
from s2s.diagnose.settings import DiagnosisSettings
from s2s.diagnose.subjects import choose, prepare
from s2s.diagnose.token_table import write_tokens
from s2s.diagnose.traces import OnProgress
from s2s.files.atomic import write_atomically
from s2s.metrics.bootstrap import too_few

USAGE = "usage: s2s diagnose run=FOLDER[,FOLDER ...] data=FILE|recipe [output=FOLDER] [key=value ...]"
PAGE, RECORD, TOKENS = "report.html", "report.json", "tokens.parquet"


def diagnose(settings: DiagnosisSettings, bar: Bar = no_bar) -> dict[str, Any]:
    """Measure the runs, write the report's files into ``settings.report`` and return the content of the JSON file.

    Passes that were made before over the same weights and examples are read from the runs' folders. Raises
    ``UserError`` for runs, data and packages that are missing.
    """
    folder, read = settings.report, [settings.data, *settings.folders, *settings.oracles]
    # Before hours of measuring: an output that cannot be written is refused at once.
    check_output_files("output", folder, (PAGE, RECORD, TOKENS), read)
    examples = choose(settings)
    subjects = [prepare(folder, examples, settings.oracles) for folder in settings.folders]
    runs = [measure(subject, settings, bar) for subject in subjects]
    results = record(settings, examples, subjects, runs)
    folder.mkdir(parents=True, exist_ok=True)
    # The page comes last: where it exists, the files that it is made of do too.
    write_tokens(folder / TOKENS, runs)
    write_atomically(folder / RECORD, json_text(results, indent=1) + "\n")
    write_atomically(folder / PAGE, page(results))
    return results


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when all is written, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, DiagnosisSettings, _command)


def _command(arguments: Sequence[str]) -> None:
    settings = merge(DiagnosisSettings, read_arguments(arguments))
    with progress_bar(plain_console(stderr=True)) as progress:

        @contextmanager
        def bar(title: str, size: int) -> Iterator[OnProgress]:
            task = progress.add_task(title, total=size)
            yield lambda done: progress.advance(task, done)
            progress.remove_task(task)

        results = diagnose(settings, bar)
    show(results, settings)


def show(results: dict[str, Any], settings: DiagnosisSettings) -> None:
    """Print the findings, the signature and where the report is."""
    for title, key in (("found", "found"), ("not found", "not_found")):
        print(f"{title}:", *results["findings"][key], sep="\n  ")
    if few := too_few(results["data"]["pairs"]):
        print(few)
    print(results["signature"])
    print(settings.report / PAGE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
