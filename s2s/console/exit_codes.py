"""The part that all commands share: exit codes, one line on standard error, and streams that may be anything."""

import sys
from collections.abc import Callable

import torch

from s2s.console.terminal import leave_standard_streams, open_standard_streams
from s2s.errors import UserError
from s2s.machine.memory import ran_out, shortage

BROKEN_PIPE = 141
"""The exit code of a program that ends because nobody reads its output: 128 + SIGPIPE."""


def run(work: Callable[[], object], stopped: str = "stopped") -> int:
    """Do a command's work and return its exit code.

    0: done; 2: an error that the user can mend, told in a line; 130: interrupted from the keyboard, told so; 141: the
    reader of its results has left.
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
        if not ran_out(error):
            raise
        print(f"error: out of memory ({shortage(error)})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    finally:
        leave_standard_streams()
    return 0
