"""SIGTERM and SIGINT end a run after the step at which they arrive."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The signal that has arrived, or 0."""

    def __init__(self) -> None:
        self.received = 0


@contextmanager
def noted() -> Iterator[Signals]:
    """Record a first signal instead of ending at once; a second one acts as without this context.

    Only a process's main thread may handle signals; in another one nothing is recorded.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signals.received = number
        restore()
        # Not ``print``: its lock may be held by the code that the signal has interrupted. Standard error may be closed.
        with suppress(OSError):
            os.write(2, b"stopping after this step; once more: at once\n")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        restore()


def leave(number: int) -> None:
    """End as the signal would have: KeyboardInterrupt, or an exit with 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
