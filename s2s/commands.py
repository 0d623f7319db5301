"""What all commands do alike: exit codes, and one line on standard error for what a user can mend."""

import sys
from collections.abc import Callable

from s2s.errors import UserError


def run(work: Callable[[], object], stopped: str = "stopped") -> int:
    """Do a command's work; returns its exit code.

    0: done; 2: an error that the user can mend, told in a line; 130: interrupted from the keyboard, told so.
    """
    try:
        work()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0
