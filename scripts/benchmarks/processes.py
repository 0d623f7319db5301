"""Processes of benchmarks: the memory of one's own, and the parent's side of a worker's."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.timing import Time
from s2s.errors import UserError
from s2s.machine.memory import OPTIONS

ALLOCATOR = {name: str(value) for name, (_, value) in OPTIONS.items()}
"""Let glibc keep freed memory instead of returning it page by page, as this project's own training does."""


# Workers are started from this folder, but import from the one above.
SCRIPTS = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))


class Worker:
    """A process with one system; what is measured of it gathers in ``times``, by repeat, and ``peaks``."""

    def __init__(self, name: str, switches: bool, settings: dict[str, Any], script: str = "training_worker.py") -> None:
        self.name, self.switches = name, switches
        self.times: defaultdict[int, list[Time]] = defaultdict(list)
        self.peaks: list[float] = []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(switches, settings["threads"]), "PYTHONPATH": SCRIPTS},
            encoding="utf-8",
        )
        facts = self.ask(**settings)
        self.missing: str | None = facts.get("missing")
        self.parameters: int = facts.get("parameters", 0)
        self.work: Any = facts.get("work")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if error is not None:
            self.process.kill()
        with suppress(BrokenPipeError):  # of a process that has ended, which was reported already
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def ask(self, **question: Any) -> Any:
        """Put a question and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            why = " (killed; too little memory for these --systems and --switches?)" if code == -9 else ""
            raise UserError(f"{self.name}: its process ended with code {code}{why}")
        return json.loads(answer)

    def step(self, batch: int) -> Time:
        """One training step with a batch."""
        return Time(*self.ask(step=batch))


def environment(switches: bool, threads: int) -> dict[str, str]:
    """Return the parent's variables, with our switches of the allocator or with none."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    return {**plain, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **(ALLOCATOR if switches else {})}


def resident_peak() -> int:
    """Return the most bytes of main memory that this process has held, libraries included."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
