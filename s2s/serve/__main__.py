"""The command: ``python -m s2s.serve run=FOLDER[,FOLDER ...] [port=8000] [host=127.0.0.1]``."""

import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2s import commands
from s2s.config import merge, read_arguments
from s2s.config.describing import Schema, explain
from s2s.errors import UserError
from s2s.packages import install_command

USAGE = "usage: python -m s2s.serve run=FOLDER[,FOLDER ...] [port=8000] [host=127.0.0.1]\n"


@dataclass
class Settings:
    """The command's arguments."""

    run: str | list[str] = ""  # run folders or hub names, with commas between them or as a list
    host: str = "127.0.0.1"  # the address to listen at; only this machine reaches the default
    port: int = 8000  # 0: any that is free
    checkpoint: Literal["best", "last", "average"] | None = None  # null: the best
    waiting: int = 64  # requests that may wait; further ones are refused with 503

    def __post_init__(self) -> None:
        if not self.places():
            raise UserError("run: missing; run=FOLDER names the run to serve")
        if not 0 <= self.port < 1 << 16:
            raise UserError(f"port: {self.port} is not in 0 .. 65535")
        if self.waiting < 1:
            raise UserError(f"waiting: {self.waiting} is not at least 1")

    def places(self) -> list[str]:
        """The runs' folders or names."""
        given = self.run if isinstance(self.run, list) else str(self.run).split(",")
        return [str(place) for place in given if str(place)]


def names(places: Sequence[str]) -> list[str]:
    """Names for runs: the last parts of their folders, or the whole paths where these are not all different."""
    short = [Path(place).name or place for place in places]
    found = short if len(set(short)) == len(short) else list(places)
    if len(set(found)) < len(found):
        raise UserError(f"run: '{max(found, key=found.count)}' is named twice")
    return found


def serve(settings: Settings) -> None:
    """Load the runs and answer until interrupted."""
    try:
        import uvicorn

        from s2s.serve.application import LOOPBACK, application
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: {install_command('serve')}") from error
    from s2s.run import load

    places = settings.places()
    runs = {name: load(place, settings.checkpoint) for name, place in zip(names(places), places, strict=True)}
    for place, run in zip(places, runs.values(), strict=True):
        if not run.recipe.generates:
            raise UserError(f"run '{place}': it was trained without targets and generates nothing")
    app = application(runs, settings.waiting, LOOPBACK if is_loopback(settings.host) else ["*"])
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="info", access_log=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when it was ended, 2 after an error of the user's."""
    if not arguments:
        print(USAGE, end="", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(arguments):
        return commands.run(lambda: print(explain(USAGE, Schema(Settings, {}, {}), arguments)))
    return commands.run(lambda: serve(merge(Settings, read_arguments(arguments), {})))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
