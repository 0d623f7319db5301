"""The command line that all commands share: ``key=value``, ``--help [SECTION]``, ``--dry-run``, and exit codes."""

import sys
from collections.abc import Callable, Sequence

import torch

from s2s.config import Schema
from s2s.config.help import explain
from s2s.console.terminal import leave_standard_streams, open_standard_streams
from s2s.errors import UserError
from s2s.machine.memory import ran_out, shortage

Work = Callable[[Sequence[str]], object]
"""The work of a command, given its ``key=value`` arguments."""
BROKEN_PIPE = 141
"""The exit code of a program that ends because nobody reads its output: 128 + SIGPIPE."""


def run_command(
    arguments: Sequence[str],
    usage: str,
    schema: Schema | type,
    work: Work,
    dry_run: Work | None = None,
    stopped: str = "stopped",
) -> int:
    """Run a command line and return its exit code, see ``exit_code_of``; 2 without arguments.

    ``--help`` prints the usage and the keys of the ``schema``, or only the sections that are named with it.
    ``--dry-run`` calls ``dry_run``, which shows what ``work`` would do; a command without one refuses the flag.
    ``stopped`` is printed after Ctrl-C.
    """
    if not arguments:
        print(usage.rstrip())
        return 2
    if {"-h", "--help"} & set(arguments):
        return exit_code_of(lambda: print(explain(usage, schema, arguments)))
    given = [argument for argument in arguments if argument != "--dry-run"]
    chosen = work if len(given) == len(arguments) else dry_run or _refuse_dry_run
    return exit_code_of(lambda: chosen(given), stopped)


def _refuse_dry_run(_: Sequence[str]) -> None:
    raise UserError("command line: this command has no --dry-run; train, decode and study have one")


def exit_code_of(work: Callable[[], object], stopped: str = "stopped") -> int:
    """Do a command's work and return its exit code.

    0: done; 2: an error that the user can mend, printed in one line; 130: interrupted by Ctrl-C, after which
    ``stopped`` is printed; 141: the reader of the results has left.
    """
    open_standard_streams()
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:
        return BROKEN_PIPE
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not ran_out(error):  # a fault of this program, which deserves its traceback
            raise
        print(f"error: out of memory ({shortage(error)})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    finally:
        leave_standard_streams()
    return 0
