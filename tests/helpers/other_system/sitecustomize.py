"""Take away what Linux alone has, before anything else is imported: a folder of this file is put on PYTHONPATH.

Processes that are started inherit it. C libraries still have all of it.
"""

import builtins
import errno
import io
import os
import pathlib
import signal

MISSING = ("fcntl", "resource", "pwd", "grp", "termios")
plainly = builtins.__import__


def imported(name, globals=None, *arguments, **keys):
    """Refuse modules to our own code and to filelock; psutil and others, which take this for Linux, need them."""
    if name in MISSING and (globals or {}).get("__name__", "").split(".")[0] in ("s2s", "filelock"):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    return plainly(name, globals, *arguments, **keys)


builtins.__import__ = imported
for name in ("sched_getaffinity", "sched_setaffinity", "process_cpu_count", "symlink", "fork", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL"):
    delattr(signal, name)


def refused(path, *_, **__):
    raise OSError(errno.EPERM, "no symbolic links here", str(path))


def hidden(function):
    def call(path, *arguments, **keys):
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", os.fsdecode(path))
        return function(path, *arguments, **keys)

    return call


def of_files(function):
    """``os.open`` of a system that opens no folders, so that they cannot be synced."""

    def call(path, flags, *arguments, **keys):
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        return function(path, flags, *arguments, **keys)

    return call


pathlib.Path.symlink_to = refused
builtins.open = io.open = hidden(io.open)
os.open = of_files(hidden(os.open))
os.stat = hidden(os.stat)
