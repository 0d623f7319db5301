"""Locks that end with their process, on every system, and on disks that know none."""

import errno
import logging
import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():  # where Python has no flock, which is told below
    warnings.simplefilter("ignore")
    import filelock

logger = logging.getLogger("s2s")

UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
LEASE = 120.0
"""Seconds without a sign of life after which a marker file counts as left behind, if its process is on another host.

One of this host that has died is noticed at once.
"""


class Lock:
    """The lock of one file: of the system where it has such, else a marker file beside it whose holder renews it."""

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
        """Take the lock; return whether it was to be had, which is not so only without ``wait``."""
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
        """Let others have the lock; with ``remove``, its file goes."""
        if remove and self.is_native and sys.platform != "win32" and self.lock.is_locked:
            self.path.unlink(missing_ok=True)  # while it is held: whoever has opened it finds it gone and tries again
        self.lock.release()
