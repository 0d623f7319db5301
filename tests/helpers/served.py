"""Servers for tests: the command in a process of its own, and clients that do what no library would."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

import s2s

LONG = {"beams": 16, "min_length": 2900, "max_length": 2900}
"""Settings whose search takes far longer than any test waits."""
GENEROUS = 60.0
"""Seconds in which everything here ends, on a slow and busy machine too."""


def run_with_room(folder: Path) -> s2s.Run:
    """A run of hardly any training in float32, which costs are counted in, with room for thousands of tokens."""
    overrides = [f"run.folder={folder}", "run.steps=1", "run.evaluate_examples=1", "run.tokens=256"]
    overrides += ["run.precision=fp32"]
    return s2s.fit(s2s.Recipe.load("toy_copy", [*overrides, "model.positions=3000", "search.beams=1"]))


class Serving:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=GENEROUS, trust_env=False)

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=GENEROUS)
        made.settimeout(GENEROUS)
        return made

    def ask(self, path: str, **fields: Any) -> socket.socket:
        """A connection on which a question has been sent, and nothing read."""
        made = self.connect()
        made.sendall(question(path, **fields))
        return made


def question(path: str, **fields: Any) -> bytes:
    """A request's bytes."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection, or resets it since it has not read everything."""
    found = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            found += piece
    return found


@contextmanager
def serving(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Serving]:
    """The command on a free port, until the block ends."""
    command = [sys.executable, "-m", "s2s.serve", "port=0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "running on" in line:
                break
        assert said, "the server said nothing"
        assert "running on" in said[-1], "".join(said)
        yield Serving(process, int(said[-1].split("http://")[1].split()[0].rpartition(":")[2]))
    finally:
        process.kill()
        process.communicate(timeout=GENEROUS)
