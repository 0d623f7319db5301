"""The command: ``s2s serve run=FOLDER[,FOLDER ...] [port=8000] [host=127.0.0.1]``."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from s2s.config import merge, read_arguments
from s2s.config.ranges import Count, PathText, Positive, Range, settle
from s2s.console.command_line import run_command
from s2s.errors import UserError, install_command

USAGE = "usage: s2s serve run=FOLDER[,FOLDER ...] [port=8000] [host=127.0.0.1]\n"

Port = Annotated[int, Range(0, 65535)]


@dataclass
class Settings:
    """The command's arguments."""

    run: PathText | list[PathText] = ""  # run folders or hub names, with commas between them or as a list
    host: str = "127.0.0.1"  # the address to listen at; only this machine reaches the default
    port: Port = 8000  # 0: any that is free
    # more names under which it may be asked, with commas between them or as a list: that of a proxy before it, say; *
    # is any name
    names: str | list[str] = ""
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best
    waiting: Count = 64  # requests that may wait; further ones are refused with 503
    time_limit: Positive = 60.0  # seconds that the work of one request may take; then it ends with 504
    memory: Count = 1024  # MiB that one request may take, by an upper bound; what may take more is refused with 422

    def __post_init__(self) -> None:
        settle(self)
        if not self.places():
            raise UserError("run: missing; run=FOLDER names the run to serve")

    def places(self) -> list[str]:
        """The runs' folders or names."""
        return listed(self.run)


def listed(given: str | list[str]) -> list[str]:
    """Return what is given as a list, or with commas between."""
    parts = given if isinstance(given, list) else str(given).split(",")
    return [str(part) for part in parts if str(part)]


def names(places: Sequence[str]) -> list[str]:
    """Names for runs: the last parts of their folders, or the whole paths where these are not all different."""
    short = [Path(place).name or place for place in places]
    found = short if len(set(short)) == len(short) else list(places)
    if len(set(found)) < len(found):
        raise UserError(f"run: '{max(found, key=found.count)}' is named twice")
    return found


def serve(settings: Settings) -> None:
    """Load the runs and answer until interrupted; the process then ends here."""
    try:
        from s2s.serve.application import application
        from s2s.serve.hosts import hosts_of, listening
        from s2s.serve.server import serve_at
        from s2s.serve.worker import Worker
    except ImportError as error:
        missing = f"{error.name} is not installed" if error.name else str(error)
        raise UserError(f"{missing}: {install_command('serve')}") from error
    from s2s.runs.run import load

    places = settings.places()
    runs = {name: load(place, settings.checkpoint) for name, place in zip(names(places), places, strict=True)}
    for place, run in zip(places, runs.values(), strict=True):
        if not run.recipe.generates:
            raise UserError(f"run '{place}': it was trained without targets and generates nothing")
    sockets = listening(settings.host, settings.port)
    hosts = hosts_of(settings.host, listed(settings.names), sockets)
    worker = Worker(settings.waiting, settings.time_limit)
    app = application(runs, worker, hosts, settings.memory)
    serve_at(sockets, app, worker, hosts)
    worker.close()
    # Nothing is left to write. Work that does not ask whether it shall end would keep the process, and to take an
    # interpreter with torch apart takes a second of processor time.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when it was ended, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, lambda given: serve(merge(Settings, read_arguments(given))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
