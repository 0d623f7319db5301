"""The checks before any route: the length of a body, the names in Host and Origin, and the form of every error."""

import asyncio
import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2s.errors import shortened
from s2s.serve.hosts import Hosts
from s2s.serve.worker import LeftError

LONGEST_REASON = 1000
"""Characters of an error message, in which a part of the request may be quoted."""
READ_FACTOR = 64
"""A body up to this many times too long is read and dropped: many clients read an answer only after sending all."""
SECONDS = 20.0
"""The time in which a body must arrive."""


def one_line(reason: str) -> str:
    """Return a reason as one line that can be sent: control characters and halves of surrogate pairs are escaped."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in reason)
    return shortened(line, LONGEST_REASON)


def error_body(reason: str) -> bytes:
    """Return the body of an error, a JSON object with one line under ``error``."""
    return json.dumps({"error": one_line(reason)}, ensure_ascii=False).encode()


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer with an error and have the connection closed, because the rest of the request is not read."""
    body = error_body(reason)
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


class TooLongError(Exception):
    """The body has more bytes than allowed."""


class BodyLimit:
    """Reads a request's whole body before the application does.

    The answer is 413 where the body is too long, and 408 where it takes more than ``seconds`` to arrive.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float = SECONDS) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with its whole body, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(scope, receive)
        except TooLongError:
            await refuse(send, 413, f"the body has more than {self.most} bytes")
            return
        except TimeoutError:
            await refuse(send, 408, f"the body did not come within {self.seconds:g} s")
            return
        except LeftError:
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body; raises ``TooLongError``, or ``LeftError`` where the client leaves before its end."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        # More than 18 digits are not even converted: a number of thousands of digits would take Python long.
        if announced.isdigit() and (len(announced) > 18 or int(announced) > READ_FACTOR * self.most):
            raise TooLongError
        body, length = bytearray(), 0
        while length <= READ_FACTOR * self.most:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise LeftError("the client has left")
            piece = message.get("body", b"")
            length += len(piece)
            if length <= self.most:
                body += piece
            if not message.get("more_body"):
                if length > self.most:
                    raise TooLongError
                return bytes(body)
        raise TooLongError


class HostGuard:
    """Refuses requests under names that are not the server's (400), and posts of foreign pages (403)."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        host = next((value for name, value in headers if name == b"host"), "")
        origins = [value for name, value in headers if name == b"origin"]
        if not self.hosts.allows(host):
            await refuse(send, 400, f"Host: '{host}' is not a name of this server; names=NAME at its start adds one")
        elif scope["method"] not in ("GET", "HEAD") and not all(self.hosts.trusts(origin, host) for origin in origins):
            await refuse(send, 403, f"Origin: a page of '{origins[0]}' may not post here; names=NAME allows its name")
        elif len(origins) == 1 and self.hosts.trusts(origins[0], host):
            await self.app(scope, receive, _readable(origins[0], send))
        else:
            await self.app(scope, receive, send)


def _readable(origin: str, send: Send) -> Send:
    """Return a ``send`` that adds CORS headers, with which a browser lets a trusted page post JSON and read answers."""
    headers = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "content-type",
        "vary": "Origin",
    }
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *pairs]}
        await send(message)

    return send_with_headers
