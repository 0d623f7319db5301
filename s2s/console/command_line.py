"""The command line that all commands of ``s2s`` share: ``key=value``, ``--help [SECTION]`` and ``--dry-run``."""

from collections.abc import Callable, Sequence

from s2s.config import Schema
from s2s.config.help import explain
from s2s.console import exit_codes
from s2s.errors import UserError

Work = Callable[[Sequence[str]], object]
"""The work of a command, given its ``key=value`` arguments."""


def run_command(
    arguments: Sequence[str],
    usage: str,
    schema: Schema | type,
    work: Work,
    dry_run: Work | None = None,
    stopped: str = "stopped",
) -> int:
    """Run a command line and return its exit code, as ``exit_codes.run`` has it; 2 where nothing is asked.

    ``--help`` prints the usage and the keys of the ``schema``, or only the sections that are named with it.
    ``--dry-run`` calls ``dry_run``, which shows what ``work`` would do; a command without one refuses the flag.
    ``stopped`` is printed after Ctrl-C.
    """
    if not arguments:
        print(usage.rstrip())
        return 2
    if {"-h", "--help"} & set(arguments):
        return exit_codes.run(lambda: print(explain(usage, schema, arguments)))
    given = [argument for argument in arguments if argument != "--dry-run"]
    chosen = work if len(given) == len(arguments) else dry_run or _refuse_dry_run
    return exit_codes.run(lambda: chosen(given), stopped)


def _refuse_dry_run(_: Sequence[str]) -> None:
    raise UserError("command line: this command has no --dry-run; train and decode have one")
