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
from s2s.errors import UserError, optional_module
from s2s.runs.run import load
from s2s.serve.hosts import hosts_of, listening

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
        if not self.folders():
            raise UserError("run: missing; run=FOLDER names the run to serve")

    def folders(self) -> list[str]:
        """Return the runs' folders or hub names."""
        return listed(self.run)


def listed(value: str | list[str]) -> list[str]:
    """Return the parts of a list, or of a text with commas between them."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part) for part in parts if str(part)]


def names(folders: Sequence[str]) -> list[str]:
    """Return names for runs: the last parts of their folders, or the whole paths where two would have the same name."""
    short = [Path(folder).name or folder for folder in folders]
    chosen = short if len(set(short)) == len(short) else list(folders)
    if len(set(chosen)) < len(chosen):
        raise UserError(f"run: '{max(chosen, key=chosen.count)}' is named twice")
    return chosen


def serve(settings: Settings) -> None:
    """Load the runs and answer until interrupted; this function ends the process."""
    server = optional_module("s2s.serve.server", "serve", "serve")  # imports fastapi and uvicorn
    folders = settings.folders()
    runs = {name: load(folder, settings.checkpoint) for name, folder in zip(names(folders), folders, strict=True)}
    for folder, run in zip(folders, runs.values(), strict=True):
        if not run.recipe.generates:
            raise UserError(f"run '{folder}': it was trained without targets and generates nothing")
    sockets = listening(settings.host, settings.port)
    hosts = hosts_of(settings.host, listed(settings.names), sockets)
    server.serve(runs, sockets, hosts, settings.waiting, settings.time_limit, settings.memory)
    # The process ends at once: work that never calls ``check`` would keep it alive, and the orderly end of an
    # interpreter with torch takes a second of processor time.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    """Run the command line: 0 when it was ended, 2 after an error that the user can mend."""
    return run_command(arguments, USAGE, Settings, lambda given: serve(merge(Settings, read_arguments(given))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
