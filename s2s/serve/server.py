"""The server: uvicorn, which ends within seconds and closes connections that ask nothing."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from s2s.runs.run import Run
from s2s.serve.application import application
from s2s.serve.hosts import Hosts
from s2s.serve.worker import GRACE, Worker

HEADERS = 20.0
"""The time for the headers of a request, from its first byte, or from the connection for the first request."""
CONNECTIONS = 512
"""The least limit of connections, and four for each request that may wait; further ones are answered with 503."""

logger = logging.getLogger("uvicorn.error")


class Protocol(H11Protocol):
    """HTTP protocol that closes connections whose headers do not arrive in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADERS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Parse data, and start the clock of a request's headers or stop it after them."""
        super().data_received(data)
        asking = self.cycle is None or self.cycle.response_complete
        if asking and self._deadline is None:
            self._deadline = self.loop.call_later(HEADERS, self.transport.abort)
        elif not asking:
            self._stop_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """A server whose worker ends its work as soon as a signal asks the server to end."""

    def __init__(self, config: uvicorn.Config, worker: Worker, hosts: Hosts) -> None:
        super().__init__(config)
        self.worker, self.hosts = worker, hosts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the addresses and names."""
        await super().startup(sockets)
        for bound in sockets or []:
            address, port = bound.getsockname()[:2]
            logger.info("running on http://%s:%d (Ctrl-C ends it)", f"[{address}]" if ":" in address else address, port)
        logger.info("%s", self.hosts.summary())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end of worker and server."""
        self.worker.end()
        super().handle_exit(sig, frame)


def serve(
    runs: Mapping[str, Run], sockets: list[socket.socket], hosts: Hosts, waiting: int, time_limit: float, memory: int
) -> None:
    """Answer questions to the runs at the sockets, until interrupted; the limits are those of the command."""
    worker = Worker(waiting, time_limit)
    config = uvicorn.Config(
        application(runs, worker, hosts, memory),
        # h11 limits headers to 64 KiB; without this, uvicorn takes another parser if one is installed.
        http=Protocol,
        ws="none",
        log_level="info",
        access_log=False,
        limit_concurrency=max(CONNECTIONS, 4 * worker.most_waiting),
        timeout_graceful_shutdown=int(GRACE) + 1,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after Ctrl-C
        Server(config, worker, hosts).run(sockets)
    worker.close()
