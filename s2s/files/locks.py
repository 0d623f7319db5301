"""Locks that end with the process that holds them, on every system, and on file systems without locks."""

import errno
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from s2s.files.atomic import naming

with warnings.catch_warnings():  # on a Python without flock, of which ``Lock`` warns itself
    warnings.simplefilter("ignore")
    import filelock

logger = logging.getLogger("s2s")

# Errors of file systems without locks.
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
LEASE = 120.0
"""Seconds after which an unrenewed marker file is taken over, if its process ran on another host.

The death of a process on this host is noticed at once.
"""


class Lock:
    """The lock of one file: the system's where there is one, else a marker file next to it that its holder renews."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path.with_name(path.name + ".held")
        self.is_native = sys.platform == "win32" or filelock.has_fcntl
        self.lock = self._native() if self.is_native else self._marked("this Python has no flock")

    def _native(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self.path, thread_local=False, fallback_to_soft=False)

    def _marked(self, reason: str) -> filelock.BaseFileLock:
        self.is_native = False
        logger.warning("%s: no file locks here (%s); a file %s takes its place", self.path, reason, self.marker.name)
        return filelock.SoftFileLease(self.marker, lease_duration=LEASE, thread_local=False)

    def take(self, wait: bool) -> bool:
        """Take the lock and return whether this process has it now; with ``wait``, wait until it has."""
        try:
            self.lock.acquire(timeout=-1 if wait else 0)
        except filelock.Timeout:
            return False
        except OSError as error:
            if not self.is_native or error.errno not in UNSUPPORTED:
                raise
            self.lock = self._marked(error.strerror or str(error))
            return self.take(wait)
        return True

    def free(self, remove: bool = False) -> None:
        """Release the lock; with ``remove``, delete its file, too."""
        if remove and self.is_native and sys.platform != "win32" and self.lock.is_locked:
            # Deleted while it is held: a waiting process sees that the file it has opened is gone, and tries again.
            self.path.unlink(missing_ok=True)
        self.lock.release()


@contextmanager
def locked(path: Path, on_wait: Callable[[], object]) -> Iterator[bool]:
    """Hold the lock of a file; where another process has it, call ``on_wait`` and wait. It ends with its process.

    The block is given whether it had to wait.
    """
    with naming(path):
        lock = Lock(path)
        waited = not lock.take(wait=False)
        if waited:
            on_wait()
            lock.take(wait=True)
    try:
        yield waited
    finally:
        lock.free()
