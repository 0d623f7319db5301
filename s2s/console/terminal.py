"""Lines, tables and progress bars for people, which never end the work that they report on.

A stream may be closed, full, a pipe without a reader, or in an encoding that lacks some characters. Text that it cannot
take is dropped or escaped: results belong in files.
"""

import atexit
import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal, NoReturn, TextIO, cast

from rich.console import Console
from rich.progress import Progress

from s2s.errors import UserError


class SafeStream:
    """Standard output or error as a file for rich, whose errors never reach the caller."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name

    @property
    def _stream(self) -> TextIO | None:
        """The current stream, which tests and notebooks exchange, without the proxy that rich puts before it."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        """Write what the stream takes, with characters outside of its encoding escaped."""
        stream = self._stream
        if stream is not None:
            with suppress(OSError, ValueError):  # ValueError: the stream is closed
                try:
                    stream.write(text)
                except UnicodeEncodeError:
                    encoding = stream.encoding or "ascii"
                    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream is not None and self._stream.isatty())
        return False

    def fileno(self) -> int:
        """Return the descriptor, through which rich asks for the width of a terminal."""
        if self._stream is None:
            raise OSError(f"{self.name} is closed")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """The stream's encoding, by which rich chooses the characters of its frames."""
        return getattr(self._stream, "encoding", None) or "utf-8"


def plain_console(stderr: bool = False, width: int | None = None, quiet: bool = False) -> Console:
    """Return a console that prints texts unchanged: without rich's markup (``[/INST]``), emoji codes and colours."""
    stream = cast(TextIO, SafeStream("stderr" if stderr else "stdout"))
    wraps = width is None  # a width is given for tables, whose cells must be folded to fit
    return Console(
        file=stream, width=width, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=wraps
    )  # fmt: skip


Log = Callable[[str], object]
"""Takes one line for the user: on a terminal, in a list, or nowhere."""


def log(text: str) -> None:
    """Print a line for the user on standard output."""
    plain_console().print(text)


def no_log(text: str) -> None:
    """Drop a line: the ``Log`` of callers whose user has read the same lines before, or has no use for them."""


def print_results(lines: Iterable[str]) -> None:
    """Write a command's results to standard output, in UTF-8 in every locale, as in files.

    Halves of surrogate pairs are escaped. Errors: BrokenPipeError where the reader has left.
    """
    text = "".join(line + "\n" for line in lines)
    if is_closed(sys.stdout):
        raise UserError("standard output is closed, so that the results would be lost")
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # a text stream of a test or a notebook
        sys.stdout.write(text)
    else:
        binary.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.flush()


def progress_bar(console: Console) -> Progress:
    """Return a progress bar with the remaining time, which is drawn only on terminals."""
    return Progress(*Progress.get_default_columns(), console=console, disable=not console.is_terminal)


class ClosedStream(io.TextIOWrapper):
    """The null device in place of a standard stream that the caller has closed."""


def is_closed(stream: object) -> bool:
    """Return whether the caller has closed a standard stream, so that it can be neither input nor output."""
    return stream is None or isinstance(stream, ClosedStream)


def open_standard_streams() -> None:
    """Make the standard streams safe to print to, whatever the caller did with them.

    A closed stream is opened on the null device: otherwise the next file that is opened would get its descriptor, and
    libraries would print into that file. Characters outside of a stream's encoding are escaped.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, ClosedStream(os.fdopen(number, f"{mode}b", closefd=False), encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def end(code: int) -> NoReturn:
    """End this program with an exit code; one of several processes that has succeeded ends at once.

    Caches of torch keep a sharded model's group, and with it threads. One of them that asks for the interpreter while
    that is being taken down aborts the process, and the launcher would call a finished run a failed one.
    """
    if code == 0 and os.environ.get("WORLD_SIZE", "1") != "1":
        atexit.register(_end_at_once)
    sys.exit(code)


def _end_at_once() -> None:
    atexit.unregister(_end_at_once)
    atexit._run_exitfuncs()  # those that others have registered
    leave_standard_streams()
    os._exit(0)


def leave_standard_streams() -> None:
    """Flush the standard streams, or redirect them to the null device, so that Python's exit does not fail on them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
