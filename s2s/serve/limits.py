"""Bodies of a bounded size that come in a bounded time, whatever the client says of them."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2s.serve.refusals import refuse
from s2s.serve.worker import LeftError

PATIENCE = 64
"""Up to this many times the limit is read and forgotten: many clients look for an answer only when all is sent."""
SECONDS = 20.0
"""A body that has not come by then does not come."""


class TooLongError(Exception):
    """The body has more bytes than it may."""


class BodyLimit:
    """Reads a request's body before the application does.

    It answers 413 where the body is too long and 408 where it takes more than ``seconds``; both close the connection.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float = SECONDS) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request and its whole body on, or refuse it."""
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
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body; raises ``TooLongError`` or ``LeftError`` where there is none to go on with."""
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > PATIENCE * self.most):
            raise TooLongError
        body, length = bytearray(), 0
        while length <= PATIENCE * self.most:
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
