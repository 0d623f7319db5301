"""uvicorn's server, with an end within seconds and connections that must ask something."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from s2s.serve.hosts import Hosts
from s2s.serve.worker import GRACE, Worker

HEADERS = 20.0
"""Seconds in which the headers of a request come, from its first byte, or for the first request from the connection."""
CONNECTIONS = 512
"""The most connections, and four for each request that may wait; further ones are answered with 503."""

logger = logging.getLogger("uvicorn.error")


class Protocol(H11Protocol):
    """Closes connections on which the headers of a request do not come in time."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADERS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read what has come, and begin or cease to wait for the rest of a request's headers."""
        super().data_received(data)
        asking = self.cycle is None or self.cycle.response_complete
        if asking and self._late is None:
            self._late = self.loop.call_later(HEADERS, self.transport.abort)
        elif not asking:
            self._cease()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._cease()
        super().connection_lost(exc)

    def _cease(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Server(uvicorn.Server):
    """A server that tells its worker of the end as soon as a signal asks for it."""

    def __init__(self, config: uvicorn.Config, worker: Worker, hosts: Hosts) -> None:
        super().__init__(config)
        self.worker, self.hosts = worker, hosts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for each in sockets or []:
            address, port = each.getsockname()[:2]
            logger.info("running on http://%s:%d (Ctrl-C ends it)", f"[{address}]" if ":" in address else address, port)
        logger.info("%s", self.hosts.said())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        self.worker.end()
        super().handle_exit(sig, frame)


def server(app: FastAPI, worker: Worker, hosts: Hosts) -> Server:
    """Return a server of the application that answers under the hosts' names."""
    config = uvicorn.Config(
        app,
        # h11 limits headers (64 KiB) whatever else is installed; nothing here speaks websockets.
        http=Protocol,
        ws="none",
        log_level="info",
        access_log=False,
        limit_concurrency=max(CONNECTIONS, 4 * worker.most_waiting),
        timeout_graceful_shutdown=int(GRACE) + 1,
    )
    return Server(config, worker, hosts)


def serve_at(sockets: Sequence[socket.socket], app: FastAPI, worker: Worker, hosts: Hosts) -> None:
    """Answer at the sockets until interrupted."""
    with suppress(KeyboardInterrupt):  # that is how uvicorn tells of Ctrl-C
        server(app, worker, hosts).run(list(sockets))
