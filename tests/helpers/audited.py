"""Run a command and record what Python opens, imports, executes and connects to beside what the command needs.

``python audited.py REPORT ALLOWED[:ALLOWED ...] COMMAND``: the command is Python source. REPORT gets a JSON list of
[event, subject] for each file below none of the allowed places and for each process, connection and import from such
a file. What Python and its packages read of themselves and of the system is no news.
"""

import json
import os
import sys
import sysconfig
from pathlib import Path

STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn", "os.fork"}
CONNECTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
OWN_PROGRAMS = {"cc", "gcc", "c++", "g++", "clang", "fc-list"}
"""What the package starts to compile its own kernels, and matplotlib to find fonts."""
SYSTEM = ("/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/opt", "/etc/ssl", "/etc/localtime", "/etc/mime.types")


def record(report: Path, allowed: list[Path]) -> None:
    """Begin to write what happens into the report, a line an event, and forbid none of it."""
    packages = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    packages += [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[1]]
    places = [str(path.resolve()) for path in (*packages, *allowed)]
    places += [path for path in SYSTEM if path not in places]
    out = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def is_known(path: str) -> bool:
        real = os.path.realpath(path)
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])
            if not is_known(path):
                note(event, path)
        elif event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            if file.startswith("/") and not is_known(file):
                note(event, file)
        elif event == "ctypes.dlopen" and "/" in str(arguments[0]):
            if not is_known(str(arguments[0])):
                note(event, str(arguments[0]))
        elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) in OWN_PROGRAMS:
            pass
        elif event in STARTS or event in CONNECTS:
            note(event, repr(arguments)[:300])

    def note(event: str, subject: str) -> None:
        os.write(out, (json.dumps([event, subject]) + "\n").encode())

    sys.addaudithook(hook)


if __name__ == "__main__":
    record(Path(sys.argv[1]), [Path(place) for place in sys.argv[2].split(":") if place])
    source = sys.argv[3]
    sys.argv = sys.argv[:1]
    exec(compile(source, "<command>", "exec"), {"__name__": "__main__"})
